"""Bases whose head and embedding share one matrix, through every command: training, receipt, resume, merge, peft's form and back."""

import json
import shlex

import numpy as np
import pytest

from petrun.checkpoint.delta import read_delta
from petrun.inference.assembly import attach_delta, fit_delta, set_delta
from petrun.models.factory import load_model
from tests.interop.peft.interop import logits
from tests.tiny import ORDERS, write_base, write_rows
from tests.training.checkpointing.test_resume import killed_at, same_run

NAMES = {"llama": {"q": "q", "embed": "embed_tokens"}, "gpt2": {"q": "qkv", "embed": "wte"}}
CHANGES = {
    "whole": "--target {q} --train-also 'embed*'",
    "whole-by-the-head": "--target {q} --train-also 'head*'",
    "lora-on-the-head": "--target {q},lm_head",
    "lora-on-the-embedding": "--target {q},{embed}",
    "lora-on-both": "--target {q},{embed},lm_head",
    "lora-on-a-trained-head": "--target {q},lm_head --train-also 'embed*'",
    "lora-on-a-trained-embedding": "--target {q},{embed} --train-also 'embed*'",
    "rslora": "--target {embed},lm_head --set delta.variant=rslora",
    "dora": "--target {q},lm_head --set delta.variant=dora",
    "pissa": "--target {q},lm_head --set delta.variant=pissa",
    "adalora": "--algo adalora --target {q},lm_head",
    "ia3": "--algo ia3 --target {q},lm_head",
}


def matrix():
    for change in CHANGES:
        for family in NAMES:
            usual = (family, change) == ("llama", "lora-on-a-trained-head")
            yield pytest.param(family, change, marks=() if usual else pytest.mark.all_only, id=f"{family}-{change}")


def loaded_with(base, delta):
    loaded = load_model(base)
    fitted = fit_delta(read_delta(delta), loaded, None)
    assembled = attach_delta(loaded, fitted)
    set_delta(assembled, fitted)
    return assembled.loaded


@pytest.mark.parametrize(("family", "change"), list(matrix()))
def test_every_command(place, petrun, family, change):
    write_base(place / "tied", family, tie_word_embeddings=True)
    write_rows(place / "rows.jsonl", ORDERS)
    options = CHANGES[change].format(**NAMES[family])
    rank = "" if "ia3" in options else "--rank 2"
    line = (
        f"train --base tied --data rows.jsonl --steps 4 --lr 0.01 --save-every 1 --keep 9 --out whole {rank} {options}"
    )
    done = petrun(shlex.split(line))
    assert done.code == 0, done.err
    (delta,) = place.joinpath("whole").glob("*.ckpt")
    receipt = json.loads((place / "whole" / "results.json").read_text())["receipt"]["delta"]
    moved = {layer["name"]: layer["norm"] for layer in receipt["layers"]}
    # AdaLoRA gives triplets up, in so short a run all of a layer's.
    assert all(norm > 0 for norm in moved.values()) or "adalora" in options
    assert ("embed.weight" in moved) == ("train-also" in options)
    assert ("head" in moved) == ("lm_head" in options)
    copy = killed_at(place / "whole", 2, place / "copy")
    (copy / delta.name).unlink(missing_ok=True)
    assert petrun("resume copy").code == 0
    same_run(place / "whole", copy, delta.name)
    done = petrun("merge --base tied --delta whole --out merged --prove")
    assert done.code == 0, done.err
    apart = "lm_head" in options or NAMES[family]["embed"] in options
    assert ("tie_word_embeddings: false" in done.out) == apart
    assert json.loads((place / "merged" / "config.json").read_text())["tie_word_embeddings"] is not apart
    done = petrun("delta convert whole --base tied --out adapter")
    assert done.code == 0, done.err
    _, want = logits(loaded_with(place / "tied", delta))
    np.testing.assert_allclose(logits(loaded_with(place / "tied", place / "adapter"))[1], want, atol=1e-5)
    np.testing.assert_allclose(logits(load_model(place / "merged"))[1], want, atol=1e-5)
    if change in ("lora-on-the-head", "lora-on-the-embedding", "lora-on-both"):
        done = petrun("unmerge --merged merged --delta whole --out again")
        assert done.code == 0, done.err
        assert json.loads((place / "again" / "config.json").read_text())["tie_word_embeddings"] is True
        np.testing.assert_allclose(
            logits(load_model(place / "again"))[1], logits(load_model(place / "tied"))[1], atol=1e-5
        )
