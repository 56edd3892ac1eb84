"""`petrun eval` with several deltas: in one pass what each scores alone, and their differences."""

import json
import shutil

import pytest

from petrun.graph.compilations import compilations
from tests.deltas import make_delta


def scored(place, petrun, line):
    done = petrun(f"eval {line} --out scores.json")
    assert done.code == 0, done.err
    return done, json.loads((place / "scores.json").read_text())


def test_one_pass_over_a_decoder_is_as_one_at_a_time(place, petrun):
    """LoRA and a prompt: one graph for the losses of all; the figures of each are those of its own run."""
    make_delta(place / "a.ckpt", place / "gpt2", "lora", rank=2, size=0.5)
    make_delta(place / "p.ckpt", place / "gpt2", "prompt", tokens=3, size=0.5)
    base = "--base gpt2 --data orders.jsonl --batch-size 4"
    with compilations() as count:
        texts = "--metrics loss,perplexity,token_accuracy,exact_match --max-new-tokens 2"
        done, found = scored(place, petrun, f"{base} {texts} --delta a.ckpt --delta own=p.ckpt --seed 5")
        # Of the losses, of the prompts and of the tokens that follow.
        assert count.graphs == 3
    assert found["base"].pop("exact_match") == found["deltas"]["a"].pop("exact_match") == 0.0
    assert found["deltas"]["own"].pop("exact_match") == 0.0
    assert found["one_pass"] and list(found["deltas"]) == ["a", "own"] and found["seed"] == 5
    _, alone = scored(place, petrun, f"{base} --delta it=p.ckpt")
    assert found["deltas"]["own"] == pytest.approx(alone["delta"], abs=1e-4)
    # The perplexity is e^loss: it differs by its size times the loss's rounding.
    assert found["base"] == pytest.approx(alone["base"], rel=1e-6, abs=1e-4)
    assert len({round(loss, 3) for loss in (f["loss"] for f in (found["base"], *found["deltas"].values()))}) == 3
    assert [(c["first"], c["second"]) for c in found["comparisons"]] == [("a", "own")] * 4
    (loss,) = [c for c in found["comparisons"] if c["metric"] == "loss"]
    assert loss["low"] <= loss["difference"] <= loss["high"] and 0.0 <= loss["wins"] <= 1.0
    difference = found["deltas"]["own"]["loss"] - found["deltas"]["a"]["loss"]
    assert loss["difference"] == pytest.approx(difference, abs=1e-12)
    assert "own against a" in done.out and "own better in" in done.out


@pytest.mark.all_only
def test_classifiers_with_heads_of_their_own(place, petrun):
    make_delta(place / "i.ckpt", place / "bert", "ia3", task="classify", size=0.5)
    base = "--base bert --data reviews.jsonl"
    _, found = scored(place, petrun, f"{base} --delta bert-lora --delta i.ckpt")
    assert found["one_pass"] and set(found["deltas"]["i"]) == {"accuracy", "f1_macro", "matthews", "loss"}
    _, alone = scored(place, petrun, f"{base} --delta i.ckpt")
    assert found["deltas"]["i"] == pytest.approx(alone["delta"], abs=1e-4)


def test_what_cannot_share_a_graph_is_scored_apart(place, petrun):
    """An adapter beside a LoRA."""
    make_delta(place / "c.ckpt", place / "gpt2", "adapter", size=0.5)
    base = "--base gpt2 --data orders.jsonl --metrics loss"
    done, found = scored(place, petrun, f"{base} --delta gpt2-lora --delta c.ckpt")
    assert not found["one_pass"] and "scored one after another: c.ckpt: adapter cannot be switched" in done.out
    assert {c["metric"] for c in found["comparisons"]} == {"loss"}
    assert abs(found["deltas"]["c"]["loss"] - found["base"]["loss"]) > 1e-3


@pytest.mark.parametrize(
    ("line", "words", "code"),
    [
        ("--delta gpt2-lora --delta x/gpt2-lora", ["would both be called gpt2-lora", "NAME=PATH"], 2),
        ("--delta base=gpt2-lora --delta a=gpt2-lora", ["'base' is what the base is called"], 2),
        ("--delta gpt2-lora --delta b=bert-lora", ["bert base"], 1),
        ("--delta gpt2-lora --delta b=gpt2-lora --seed -1", ["--seed -1 is below 0"], 2),
        ("--delta gpt2-lora --delta b=gpt2-lora --delta-strategy s.ckpt", ["--delta-strategy is for one delta"], 2),
    ],
)
def test_refusals(place, refused, line, words, code):
    shutil.copytree(place / "gpt2-lora", place / "x" / "gpt2-lora")
    refused(f"eval --base gpt2 --data orders.jsonl {line}", words, code)
