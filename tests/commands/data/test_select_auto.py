"""Self-guided selection in one command: a short training on different rows, scores by its delta, the best; each step once."""

import json

import pytest

from tests.curation.rows import read_jsonl, write_jsonl
from tests.inference.sentences.test_encoder import tiny  # noqa: F401
from tests.program import call
from tests.tiny import write_base

WORDS = "a bad film good it is not the this very".split()
ROWS = [
    {"prompt": f"{one} film {other}", "completion": f"{i} {one}"}
    for i, (one, other) in enumerate(zip(WORDS * 2, WORDS[3:] * 3, strict=False))
]
LINE = ["data", "select", "rows.jsonl", "--auto", "--base", "gpt2", "--encoder", "tiny", "--brief", "6", "--top", "50%"]
LINE += ["--max-score", "9", "--set", "train.batch_size=3", "--out", "best.jsonl"]


@pytest.fixture
def folder(tiny, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_base(tmp_path / "gpt2", "gpt2")
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    return tmp_path


def stopped(*_):
    raise KeyboardInterrupt


def test_each_step_is_taken_once(folder, monkeypatch, capfd):
    steps = folder / "best.jsonl.auto"
    with monkeypatch.context() as patch:
        patch.setattr("petrun.commands.data.select_auto.write_scores", stopped)
        assert call(LINE) == 130
    brief = read_jsonl(steps / "brief.jsonl")
    assert len(brief) == 6 and all(row in ROWS for row in brief) and not (folder / "best.jsonl").exists()
    assert len({row["prompt"].split()[0] for row in brief}) > 3
    log = [json.loads(line) for line in (steps / "brief" / "log.jsonl").read_text().splitlines()]
    assert max(record.get("step", 0) for record in log) == 2, "an epoch of 6 rows in batches of 3"
    with monkeypatch.context() as patch:
        patch.setattr("petrun.commands.train.run", stopped)
        assert call(LINE) == 0
    header = read_jsonl(steps / "scores.jsonl")[0]
    assert header["by"] == "ifd" and header["delta"] == "best.jsonl.auto/brief" and header["delta_digest"]
    best = read_jsonl(folder / "best.jsonl")
    assert len(best) == len(ROWS) // 2 and all(row in ROWS for row in best)
    with monkeypatch.context() as patch:
        patch.setattr("petrun.commands.data.select_auto.score_difficulty", stopped)
        assert call(LINE) == 0 and read_jsonl(folder / "best.jsonl") == best
    capfd.readouterr()
    assert call([*LINE, "--seed", "1"]) == 1
    assert "the steps of a selection with other seed" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--auto", "--base", "gpt2"], "--auto needs --encoder"),
        (["--auto", "--encoder", "tiny", "--scores", "s.jsonl"], "--scores: has no effect with --auto"),
        (["--auto", "--encoder", "tiny", "--by", "idf"], "--by idf: no such difficulty"),
        (["--scores", "s.jsonl", "--base", "gpt2"], "--base: has no effect without --auto"),
        (["--scores", "s.jsonl", "--brief", "3"], "--brief: has no effect without --auto"),
        (["--auto", "--encoder", "tiny", "--brief", "30"], "--brief 30: there are 20 rows"),
    ],
)
def test_wrong_calls_end_with_one_clear_error(folder, capfd, line, said):
    assert call(["data", "select", "rows.jsonl", *line, "--out", "best.jsonl"]) == 2
    shown = capfd.readouterr().err
    assert said in shown and "Traceback" not in shown
    assert not (folder / "best.jsonl").exists()
