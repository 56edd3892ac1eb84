"""AdaLoRA and LoRA's variants through the commands: budgets kept, runs that go on, and runs that cannot be."""

import numpy as np
import pytest

from petrun.checkpoint.delta import read_delta
from petrun.delta.adalora import ADALORA_E, ADALORA_KEEP

TRAIN = "train --base bert --data reviews.jsonl --batch-size 3 --out run"
ADALORA = f"{TRAIN} --algo adalora --rank 1 --set delta.init_rank=3 --set delta.delta_t=1"


def masks(path):
    tensors = read_delta(path).tensors
    return {name: tensors[name] for name in tensors if name.endswith(ADALORA_KEEP)}


@pytest.mark.all_only
def test_a_budget_is_kept_and_a_run_that_goes_on_keeps_within_it(place, petrun):
    done = petrun(f"{ADALORA} --steps 5 --set delta.tinit=1 --set delta.tfinal=2")
    assert done.code == 0, done.err
    assert "adalora (rank 1, init_rank 3" in done.out
    first = masks(place / "run")
    assert len(first) == 4 and sum(mask.sum() for mask in first.values()) == 4
    tensors = read_delta(place / "run").tensors
    for name, mask in first.items():
        assert not tensors[name.replace(ADALORA_KEEP, ADALORA_E)][mask == 0].any()
    # How a run trains may change from one to the next; what the delta computes may not.
    again = "train --algo adalora --base bert --data reviews.jsonl --batch-size 3 --steps 3 --init-delta run --out more"
    done = petrun(f"{again} --set delta.tfinal=1 --set delta.tinit=0 --set delta.orth_weight=0")
    assert done.code == 0, done.err
    second = masks(place / "more")
    assert sum(mask.sum() for mask in second.values()) == 4
    for name, mask in second.items():
        assert (mask <= first[name]).all()
    assert read_delta(place / "more").config["tfinal"] == 1.0
    done = petrun(f"{again}-2 --rank 2")
    assert done.code == 2 and "--rank 2 contradicts the delta's 1" in done.err


def test_lora_plus_on_a_delta_that_was_trained_without(place, petrun):
    line = f"{TRAIN} --init-delta bert-lora --steps 1 --lr 0.01"
    assert petrun(f"{line} --set delta.lora_plus_ratio=4").code == 0
    assert petrun(line.replace("--out run", "--out plain")).code == 0
    start, plus, plain = (read_delta(place / name).tensors for name in ("bert-lora", "run", "plain"))
    a, b = (f"layers.0.attn.q.mindpet_delta_lora_{leaf}" for leaf in "ab")
    np.testing.assert_allclose(plus[a], plain[a], rtol=1e-5, atol=1e-6)
    # AdamW's first step moves every entry by its rate; the decay is a thousandth of that.
    moved = np.abs(plus[b] - start[b]) / np.abs(plain[b] - start[b])
    np.testing.assert_allclose(np.median(moved), 4.0, rtol=1e-2)


@pytest.mark.parametrize(
    ("flags", "words", "code"),
    [
        (
            "--steps 4 --set delta.tinit=3 --set delta.tfinal=0.25",
            ["delta.tinit 3 and delta.tfinal 0.25 are 3 and 1 of the run's 4 steps", "--steps"],
            2,
        ),
        ("--rank 4", ["--set delta.init_rank: 3 is not valid: must be at least rank, which is 4"], 2),
        ("--alpha -1", ["--alpha: -1.0 is not valid: must be above 0"], 2),
    ],
    ids=["too short", "ranks", "alpha"],
)
def test_adalora_that_cannot_be(refused, flags, words, code):
    refused(f"{ADALORA} {flags}", words, code)
    refused(f"{ADALORA} --dry-run {flags}", words, code)


def test_pissa_of_more_triples_than_a_layer_has(refused):
    words = ["layers.0.attn.q is 16 x 16: it has 16 singular triples, rank is 17", "Lower --rank"]
    refused(f"{TRAIN} --rank 17 --set delta.variant=pissa", words)
