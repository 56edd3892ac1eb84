"""The manifest: what it keeps, and what it refuses to read."""

import json

import pytest
from pydantic import ValidationError

from petrun.checkpoint.manifest import FORMAT, BaseIdentity, Manifest, TaskInfo, parse_manifest
from petrun.errors import DeltaError

FULL = Manifest(
    algo="lora",
    config={"rank": 8, "alpha": 16.0, "target": ["q", "v"]},
    family="llama",
    model_type="qwen2",
    hf_config={"hidden_size": 64},
    base=BaseIdentity(digest="ab" * 32, name="基础", fresh=("classifier.weight",)),
    task=TaskInfo(name="classify", labels=("bad", "gut"), num_labels=2, seq_len=64, columns={"text": "sentence"}),
    template="{{ prompt }}\n",
    tokenizer_digest="cd" * 32,
    seed=3,
    step=100,
    epoch=1.5,
    metrics={"accuracy": 0.83, "loss": 1},
    versions={"petrun": "0.1.0"},
    owned=("a", "b"),
    digest="ef" * 32,
)


def edited(**changes):
    return json.dumps({**json.loads(FULL.to_json()), **changes})


def test_round_trip():
    assert parse_manifest("f", FULL.to_json()) == FULL


def test_the_least_that_is_needed():
    least = parse_manifest("f", '{"format": 1, "algo": "full", "base": {"digest": "x"}}')
    assert least.algo == "full" and least.task is None and least.owned == ()


def test_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        FULL.step = 5


def test_metrics_that_are_not_finite_become_null():
    manifest = Manifest(
        algo="lora",
        base=BaseIdentity(digest="x"),
        metrics={"loss": float("nan"), "perplexity": float("inf"), "f1": 0.5},
    )
    assert manifest.metrics == {"loss": None, "perplexity": None, "f1": 0.5}
    assert parse_manifest("f", manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[1]", "is not a JSON object"),
        (edited(format="1"), "no valid format version"),
        (edited(format=0), "no valid format version"),
        (edited(format=True), "no valid format version"),
        ('{"algo": "lora"}', "no valid format version"),
        (
            edited(format=FORMAT + 1),
            rf"written by a newer petrun \(format {FORMAT + 1}, this one reads up to {FORMAT}\)",
        ),
        (edited(metrix={}), r"metrix: unknown key\. Did you mean metrics"),
        (edited(base={"digest": "x", "path": "/"}), r"base\.path: unknown key"),
        (edited(seed="3"), r"seed: Input should be a valid integer, got '3'"),
        (edited(step=1.5), "step: Input should be a valid integer, got 1.5"),
        (edited(owned="a"), "owned: .*, got 'a'"),
        (edited(task={"labels": []}), r"task\.name: Field required"),
        (edited(base=None), "base: .*, got None"),
        (edited(metrics={"loss": "low"}), r"metrics\.loss: .*, got 'low'"),
        (edited(config=[]), r"config: .*, got \[\]"),
    ],
)
def test_what_does_not_read(text, message):
    with pytest.raises(DeltaError, match=message) as caught:
        parse_manifest("runs/x/lora.ckpt", text)
    assert caught.value.message.startswith("runs/x/lora.ckpt: ") and caught.value.hint


def test_all_problems_are_told_at_once():
    with pytest.raises(DeltaError) as caught:
        parse_manifest("f", edited(seed="3", step="4", metrix=1))
    assert all(f"\n  {key}: " in caught.value.message for key in ("seed", "step", "metrix"))


def test_a_newer_format_says_upgrade():
    with pytest.raises(DeltaError) as caught:
        parse_manifest("f", edited(format=99, entirely={"new": "keys"}))
    assert "pip install -U petrun" in caught.value.hint


def test_a_name_that_is_no_valid_text():
    named = Manifest(algo="lora", base=BaseIdentity(digest="d", name=b"b\xe9rt".decode("utf-8", "surrogateescape")))
    assert parse_manifest("f", named.to_json()).base.name == "b?rt"
