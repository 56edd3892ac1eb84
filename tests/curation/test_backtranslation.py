"""Texts get questions from a delta that was trained to ask; the same again, also where a pass was interrupted."""

import json

import pytest

from tests.curation.rows import read_jsonl, write_jsonl
from tests.program import call
from tests.tiny import ORDERS, write_base


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_base(tmp_path / "gpt2", "gpt2")
    write_jsonl(tmp_path / "rows.jsonl", ORDERS)
    return tmp_path


def test_texts_become_rows(folder, monkeypatch, capfd):
    assert call(["data", "convert", "rows.jsonl", "--swap", "--out", "swapped.jsonl"]) == 0
    assert read_jsonl(folder / "swapped.jsonl")[0] == {"prompt": "3", "completion": "1+2="}
    train = ["train", "--base", "gpt2", "--data", "swapped.jsonl", "--algo", "lora", "--rank", "8", "--lr", "0.02"]
    assert call([*train, "--target", "all-linear", "--steps", "120", "--out", "backward"]) == 0
    write_jsonl(
        folder / "texts.jsonl", [{"text": "3"}, {"text": " "}, {"text": "7"}, {"text": "x" * 60}, {"text": "4"}]
    )
    line = [
        "data",
        "backtranslate",
        "texts.jsonl",
        "--base",
        "gpt2",
        "--delta",
        "backward",
        "--temperature",
        "0",
        "--out",
        "asked.jsonl",
    ]
    assert call([*line, "--max-new-tokens", "12"]) == 0
    found = read_jsonl(folder / "asked.jsonl")
    assert {row["completion"] for row in found} <= {"3", "7", "4"} and all(row["prompt"] for row in found)
    reasons = {row["line"]: row["reason"] for row in read_jsonl(folder / "asked.jsonl.dropped.jsonl")}
    assert (reasons[2], reasons[4]) == ("no text", "too long")
    assert found and set(reasons) | {line for line, text in ((1, "3"), (3, "7"), (5, "4")) if text in {r["completion"] for r in found}} == {
        1, 2, 3, 4, 5,
    }  # fmt: skip
    assert not (folder / "asked.jsonl.partial").exists()

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("petrun.commands.data.backtranslate.row_output", stopped_output(stopped))
        assert call([*line, "--max-new-tokens", "12"]) == 130
    kept = (folder / "asked.jsonl.partial").read_text().splitlines()
    assert [json.loads(entry)[0] for entry in kept[1:]] == [0, 2, 4]
    before = (folder / "asked.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        # Everything was asked before: the net answers nothing.
        patch.setattr(
            "petrun.inference.generation.session.Session.chunks",
            lambda self, requests: iter(()) if not requests else stopped(),
        )
        assert call([*line, "--max-new-tokens", "12"]) == 0
    assert (folder / "asked.jsonl").read_bytes() == before
    capfd.readouterr()
    assert call(["data", "backtranslate", "texts.jsonl", "--base", "gpt2", "--out", "x.jsonl"]) == 2
    assert "trained to ask" in capfd.readouterr().err


def stopped_output(stop):
    """`row_output`, interrupted when it is to keep its first row."""
    from contextlib import contextmanager

    from petrun.curation.output import row_output

    @contextmanager
    def made(*given):
        with row_output(*given) as output:
            output.keep = stop
            yield output

    return made
