"""Rows that a decoder classifies, from the command line to a folder and an adapter that transformers and peft load, and back."""

import json

import numpy as np
import pytest

from petrun.checkpoint.delta import read_delta
from tests.program import edit
from tests.tiny import write_rows

WORDS = ["this film is good", "bad", "a very good film", "this is bad"] * 3
NAMED = [{"text": text, "label": "pos" if "good" in text else "neg"} for text in WORDS]


def scores(path):
    found = [json.loads(line)["scores"] for line in path.read_text().splitlines()]
    # An adapter does not name its classes.
    return np.array([list(row.values()) if isinstance(row, dict) else row for row in found])


def test_from_train_to_what_others_load_and_back(place, petrun):
    """The task follows from the columns; without a pad token in config.json, merged folders get that of the tokenizer."""
    edit(place / "llama/config.json", pad_token_id=None)
    write_rows(place / "rows.jsonl", NAMED)
    write_rows(place / "texts.jsonl", [{"text": row["text"]} for row in NAMED])
    line = "train --base llama --data rows.jsonl --eval-data rows.jsonl --rank 2 --epochs 15 --batch-size 6 --lr 0.03 --out run"
    done = petrun(line)
    assert done.code == 0, done.err
    delta = read_delta(place / "run")
    assert (delta.manifest.task.name, delta.manifest.task.labels) == ("classify", ("neg", "pos"))
    assert delta.manifest.metrics["accuracy"] == 1.0, "it has learned"
    assert delta.shapes["score.weight"] == (2, 16) and delta.manifest.base.fresh == ("score.weight",)
    assert petrun("predict --base llama --delta run --data texts.jsonl --out ours.jsonl").code == 0
    want = scores(place / "ours.jsonl")
    done = petrun("merge --base llama --delta run --out merged --prove")
    assert done.code == 0, done.err
    config = json.loads((place / "merged/config.json").read_text())
    assert (config["architectures"], config["pad_token_id"]) == (["LlamaForSequenceClassification"], 0)
    assert config["id2label"] == {"0": "neg", "1": "pos"}
    # Texts alone stand for lm elsewhere: the folder says that this base classifies.
    done = petrun("predict --base merged --data texts.jsonl --out merged.jsonl")
    assert done.code == 0, done.err
    np.testing.assert_allclose(scores(place / "merged.jsonl"), want, atol=1e-5)
    done = petrun("generate --base merged --prompt good")
    assert done.code == 1 and "a llama base (LlamaForSequenceClassification) generates no text" in done.err, done.err
    done = petrun("delta convert run --to peft --base llama --out adapter")
    assert done.code == 0, done.err
    assert json.loads((place / "adapter/adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    # So does an adapter of SEQ_CLS.
    done = petrun("predict --base llama --delta adapter --data texts.jsonl --out adapter.jsonl")
    assert done.code == 0, done.err
    np.testing.assert_allclose(scores(place / "adapter.jsonl"), want, atol=1e-5)


def test_what_does_not_go_with_it_is_named(place, petrun):
    write_rows(place / "rows.jsonl", NAMED)
    train = "train --data rows.jsonl --steps 1 --dry-run"
    for base in ("gpt2", "bert"):
        done = petrun(f"{train} --base {base} --pack")
        assert done.code != 0 and "--pack: the net gives one answer for a sequence" in done.err, done.err
    done = petrun(f"{train} --base chatglm --task classify")
    assert done.code != 0 and "classify" in done.err, done.err


@pytest.mark.all_only
@pytest.mark.parametrize("layout", ["tp=2", "dp=2,pp=2", "dp=2,zero=1"])
def test_is_rehearsed(place, petrun, layout):
    write_rows(place / "rows.jsonl", NAMED)
    line = f"rehearse --base llama --data rows.jsonl --rank 2 --steps 2 --parallel {layout} --compute"
    done = petrun(line)
    assert done.code == 0, done.err + done.out
