"""Difficulty against an independent net in numpy, and what it finds; scores, selection and vectors as the program runs them."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from petrun.assets import base_folder, task_file
from tests.curation.rows import read_jsonl, write_jsonl
from tests.models.reference import gpt2
from tests.program import call
from tests.tiny import CONFIGS, letters, write_base

ROWS = [
    {"prompt": "Name a colour: ", "completion": "blue"},
    {"prompt": "2+2=", "completion": "4"},
    {"prompt": "Say it twice: hi ", "completion": "hi hi"},
    {"prompt": "A long question that does not fit the net's positions", "completion": "because it is longer"},
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_base(tmp_path / "gpt2", "gpt2")
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    return tmp_path


def losses(folder, ids):
    """-log P of every token but the first, by the net in numpy, float64."""
    tensors = {
        name: values.astype(np.float64) for name, values in load_file(folder / "gpt2" / "model.safetensors").items()
    }
    ids = np.array([ids])
    logits = gpt2(tensors, CONFIGS["gpt2"], ids, np.ones_like(ids), np.arange(ids.shape[1])[None])[0]
    logits = logits - logits.max(-1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -logs[np.arange(ids.shape[1] - 1), ids[0, 1:]]


def scores(folder, *more, by="ifd", code=0):
    line = ["data", "score", "rows.jsonl", "--by", by, "--base", "gpt2", "--out", "scores.jsonl", *more]
    assert call(line) == code
    return read_jsonl(folder / "scores.jsonl") if code == 0 else None


def test_both_losses_are_those_of_the_same_tokens(folder):
    """Given a tokenizer without a BOS, an answer's first token is predicted from nothing when it stands alone: it is scored in neither."""
    header, *found = scores(folder)
    assert header["formula"] == "s(A|Q) / s(A)" and header["files"][0]["file"] == "rows.jsonl"
    encode = letters().encode
    for row, entry in zip(ROWS[:1] + ROWS[2:3], found[:1] + found[2:3], strict=True):
        question, answer = encode(row["prompt"]).ids, encode(row["completion"]).ids
        given = losses(folder, question + answer)[len(question) :]
        alone = losses(folder, answer)
        assert len(given) == len(alone) == entry["tokens"] == len(answer) - 1
        assert abs(entry["loss_with_question"] - given.mean()) < 1e-5 > abs(entry["loss_alone"] - alone.mean())
        assert abs(entry["score"] - given.mean() / alone.mean()) < 1e-5
    # One token of which none can be scored, and a row longer than the net's 48 positions.
    assert [(e["score"], e.get("reason")) for e in (found[1], found[3])] == [
        (None, "no token to score"),
        (None, "too long"),
    ]


def test_a_text_before_the_answer_makes_its_first_token_count(folder):
    _, *found = scores(folder, "--direct", "### Response:", by="ppl")
    encode = letters().encode
    for row, entry in zip(ROWS[:3], found[:3], strict=True):
        question, answer, header = (encode(text).ids for text in (row["prompt"], row["completion"], "### Response:"))
        given, alone = (
            losses(folder, question + answer)[len(question) - 1 :],
            losses(folder, header + answer)[len(header) - 1 :],
        )
        assert entry["tokens"] == len(answer)
        assert abs(entry["score"] - np.exp(given.mean() - alone.mean())) < 1e-5


def test_an_interrupted_pass_goes_on(folder, monkeypatch, capfd):
    """Given what a pass left that was stopped while it wrote a line, the next takes the batches before it from there."""
    from petrun.inference import token_losses

    rows = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a in range(10, 16) for b in range(50, 56)]
    write_jsonl(folder / "rows.jsonl", rows)
    done = folder / "scores.jsonl.partial"

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(token_losses, "_BATCHES", 3)
    whole = scores(folder, "--set", "eval.batch_size=4")
    assert not done.exists()
    with monkeypatch.context() as patch:
        # The command ends after its pass, before it writes the scores.
        patch.setattr("petrun.commands.data.score.write_scores", stopped)
        scores(folder, "--set", "eval.batch_size=4", code=130)
    lines = done.read_text().splitlines()
    assert len(lines) == 1 + 6
    done.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])
    capfd.readouterr()
    assert scores(folder, "--set", "eval.batch_size=4") == whole
    assert "6 of 18 batches were scored before" in capfd.readouterr().out
    # Of other settings nothing is taken over.
    done.write_text("\n".join(lines[:3]) + "\n")
    scores(folder, "--set", "eval.batch_size=5")
    assert "scored before" not in capfd.readouterr().out


def test_selection_takes_the_highest_up_to_1(folder, capfd):
    header, *found = scores(folder, "--direct", "x")
    for entry, value in zip(found, (0.5, 1.2, 0.9, None), strict=True):
        entry["score"] = value
    write_jsonl(folder / "scores.jsonl", [header, *found])
    line = ["data", "select", "rows.jsonl", "--scores", "scores.jsonl", "--out", "best.jsonl", "--top"]
    assert call([*line, "1"]) == 0 and read_jsonl(folder / "best.jsonl") == [ROWS[2]]
    reasons = [row["reason"] for row in read_jsonl(folder / "best.jsonl.dropped.jsonl")]
    assert reasons == ["not among the best", "score above 1", "no score"]
    assert call([*line, "100%"]) == 0 and read_jsonl(folder / "best.jsonl") == [ROWS[0], ROWS[2]]
    assert call([*line, "50%", "--lowest"]) == 0 and read_jsonl(folder / "best.jsonl") == [ROWS[0]]
    assert call([*line, "50%", "--min-score", "0.6"]) == 1 and "leaves no row of the 1" in capfd.readouterr().err
    assert call([*line, "3"]) == 1 and "asks for 3 rows, and 2 can be chosen" in capfd.readouterr().err
    write_jsonl(folder / "rows.jsonl", ROWS[:3])
    assert call([*line, "1"]) == 1 and "these files are not the same" in capfd.readouterr().err


def test_answers_of_other_questions_are_found(tmp_path, monkeypatch):
    """Given the embedded task with half of its answers shuffled, nearly all shuffled rows score above nearly all others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [json.loads(line) for line in task_file("eval").read_text().splitlines()][:12]
    answers = [row["messages"][1] for row in rows]
    mixed = [{"messages": [row["messages"][0], answers[(i + 5) % 6 if i < 6 else i]]} for i, row in enumerate(rows)]
    write_jsonl(tmp_path / "rows.jsonl", mixed)
    assert call(["data", "score", "rows.jsonl", "--base", str(base_folder()), "--out", "scores.jsonl"]) == 0
    found = np.array([row["score"] for row in read_jsonl(tmp_path / "scores.jsonl")[1:]])
    assert (found[:6] > 1).all()
    assert np.mean(found[:6, None] > found[6:]) > 0.95


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--by", "idf", "--out", "s.jsonl"], "Did you mean ifd?"),
        (["--by", "similarity", "--out", "s.jsonl"], "needs --encoder"),
        (["--by", "ifd", "--margin", "--out", "s.jsonl"], "--margin has no effect on --by ifd"),
        (["--by", "similarity", "--direct", "x", "--out", "s.jsonl"], "--direct has no effect"),
        (["--by", "ifd"], "--out is missing"),
        (["--by", "similarity", "--encoder", "gpt2", "--out", "s.jsonl"], "has no modules.json"),
    ],
)
def test_wrong_calls_write_nothing(folder, capfd, line, said):
    assert call(["data", "score", "rows.jsonl", *line]) in (1, 2)
    assert said in capfd.readouterr().err
    assert not list(folder.glob("s.jsonl*"))
