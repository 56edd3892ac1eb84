"""Words with tags, from the command line to a folder that transformers loads and an adapter for peft, and back."""

import json

import numpy as np
import pytest

from petrun.checkpoint.delta import read_delta
from tests.tiny import write_rows

ROWS = [
    {"tokens": ["a", "good", "film", "is", "not", "bad"], "ner_tags": ["O", "B-UP", "I-UP", "O", "O", "B-DOWN"]},
    {"tokens": ["this", "bad", "film"], "ner_tags": ["O", "B-DOWN", "I-DOWN"]},
    {"tokens": ["good", "very", "good"], "ner_tags": ["B-UP", "O", "B-UP"]},
] * 4
NAMES = ("B-DOWN", "B-UP", "I-DOWN", "I-UP", "O")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_equal(found, want):
    assert [row["tags"] for row in found] == [row["tags"] for row in want]
    for one, other in zip(found, want, strict=True):
        np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-5)


@pytest.mark.all_only
def test_from_train_to_what_others_load_and_back(place, petrun):
    write_rows(place / "rows.jsonl", ROWS)
    write_rows(place / "words.jsonl", [{"tokens": row["tokens"]} for row in ROWS])
    line = "train --base bert --data rows.jsonl --eval-data rows.jsonl --rank 2 --epochs 30 --batch-size 6 --lr 0.05 --out run"
    done = petrun(line)
    assert done.code == 0, done.err
    manifest = read_delta(place / "run").manifest
    assert (manifest.task.name, manifest.task.labels) == ("tokens", NAMES)
    assert manifest.base.fresh == ("classifier.weight", "classifier.bias")
    assert manifest.metrics["entity_f1"] == 1.0 == manifest.metrics["token_accuracy"], manifest.metrics
    done = petrun("predict --base bert --delta run --data words.jsonl --out ours.jsonl")
    assert done.code == 0, done.err
    ours = lines(place / "ours.jsonl")
    assert [row["tags"] for row in ours] == [row["ner_tags"] for row in ROWS]
    assert ours[1]["entities"] == [{"type": "DOWN", "start": 1, "end": 3}] and ours[1]["words"] == [0, 1, 2]
    done = petrun("merge --base bert --delta run --out merged --prove")
    assert done.code == 0, done.err
    config = json.loads((place / "merged/config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"]
    assert config["id2label"] == {str(i): name for i, name in enumerate(NAMES)}
    done = petrun("predict --base merged --data words.jsonl --out merged.jsonl")
    assert done.code == 0, done.err
    check_equal(lines(place / "merged.jsonl"), ours)
    done = petrun("delta convert run --to peft --base bert --out adapter")
    assert done.code == 0, done.err
    assert json.loads((place / "adapter/adapter_config.json").read_text())["task_type"] == "TOKEN_CLS"
    names = ",".join(NAMES)
    done = petrun(
        f"predict --base bert --delta adapter --data words.jsonl --out adapter.jsonl --set 'data.labels=[{names}]'"
    )
    assert done.code == 0, done.err
    check_equal(lines(place / "adapter.jsonl"), ours)
    # Its head is none of rows.
    write_rows(place / "reviews.jsonl", [{"text": "a film", "label": k} for k in (0, 1)])
    for other in ("train --init-delta", "predict --out no.jsonl --delta"):
        done = petrun(f"{other} adapter --base bert --data reviews.jsonl --task classify")
        assert done.code != 0 and "which was trained for tokens" in done.err, done.err


@pytest.mark.parametrize(
    ("row", "options", "words"),
    [
        ({"tokens": ["a", "film"], "tags": ["O"]}, "", "rows.jsonl, line 1: 1 tags for 2 words"),
        ({"tokens": ["a", 3], "tags": ["O", "O"]}, "", "expected a list of words"),
        ({"tokens": "a film", "tags": ["O", "O"]}, "", "is str 'a film', expected a list"),
        ({"tokens": ["a", "film"]}, "--task tokens", "no column 'tags', which the task tokens needs"),
        ({"tokens": ["a", "film"], "tags": ["O", None]}, "", "rows.jsonl, line 1: the label is missing"),
        ({"tokens": ["a", "film"], "tags": ["O", "B-X"]}, "--pack", "--pack: the positions of an encoder"),
        ({"tokens": ["a", "film"], "tags": ["O", "B-X"]}, "--set data.regression=true", "has no effect"),
    ],
)
def test_what_is_wrong_is_named(place, petrun, row, options, words):
    write_rows(place / "rows.jsonl", [row] * 2)
    done = petrun(f"train --base bert --data rows.jsonl --steps 1 --dry-run {options}")
    assert done.code != 0 and words in done.err, done.err


def test_a_decoder_gives_no_tags(place, petrun):
    write_rows(place / "rows.jsonl", ROWS)
    done = petrun("train --base gpt2 --data rows.jsonl --steps 1 --dry-run")
    assert done.code != 0 and "stand for the task tokens, which this model family cannot do" in done.err, done.err


@pytest.mark.all_only
@pytest.mark.parametrize("layout", ["tp=2", "dp=2,pp=2"])
def test_is_rehearsed(place, petrun, layout):
    write_rows(place / "rows.jsonl", ROWS)
    done = petrun(f"rehearse --base bert --data rows.jsonl --rank 2 --steps 2 --parallel {layout} --compute")
    assert done.code == 0, done.err + done.out
