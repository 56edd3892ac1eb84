"""Exports are those that transformers and peft have loaded: by digest, and once more with the libraries where they are installed."""

import importlib.util
import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from petrun.commands import export, merge
from petrun.config.commands.merge import MergeSettings
from petrun.models.factory import load_model
from petrun.tensors import open_tensors
from tests.deltas import make_delta
from tests.interop.peft.interop import LIBRARIES, STORED, cases, digest_of, in_theirs, logits, make
from tests.tiny import write_base

pytestmark = pytest.mark.usefixtures("pynative")
BY_DEFAULT = {"peft": "llama", "merged": "gpt2"}
SCORED = ("peft", "lora", "llama-classes")


def matrix():
    for kind, method, family in cases():
        only = [f for k, m, f in cases() if (k, m) == (kind, method)]
        usual = BY_DEFAULT[kind] if BY_DEFAULT[kind] in only else only[0]
        marks = () if family == usual or (kind, method, family) == SCORED else pytest.mark.all_only
        yield pytest.param(kind, method, family, marks=marks, id=f"{kind}-{method}-{family}")


@pytest.mark.parametrize(("kind", "method", "family"), list(matrix()))
def test_the_export_is_the_one_that_was_verified(tmp_path, kind, method, family):
    out, loaded = make(kind, method, family, tmp_path)
    assert digest_of(method, out) == json.loads(STORED.read_text())["digests"][f"{kind} {method} {family}"]
    if all(importlib.util.find_spec(name) for name in LIBRARIES):
        ids, ours = logits(loaded)
        np.testing.assert_allclose(in_theirs(kind, family, tmp_path, out, ids), ours, atol=1e-4)


def test_every_case_has_its_digest():
    assert set(json.loads(STORED.read_text())["digests"]) == {" ".join(case) for case in cases()}


def test_mindspore_loads_a_merged_checkpoint(tmp_path):
    _, loaded = make("merged", "lora", "gpt2", tmp_path)
    delta, out = str(tmp_path / "delta.ckpt"), str(tmp_path / "m.ckpt")
    merge.run(MergeSettings(base=str(tmp_path / "base"), deltas=(delta,), out=out))
    held = ms.load_checkpoint(str(tmp_path / "m.ckpt"))
    _, with_delta = logits(loaded)
    fresh = load_model(tmp_path / "base")
    missing, unused = ms.load_param_into_net(fresh.net, held, strict_load=True)
    assert not missing and not unused
    np.testing.assert_allclose(logits(fresh)[1], with_delta, atol=1e-5)


def test_a_head_of_two_layers_is_one_module_of_peft(tmp_path):
    """peft wraps RobertaForSequenceClassification's classifier as a whole."""
    base = write_base(tmp_path / "base", "roberta")
    make_delta(tmp_path / "delta.ckpt", base, "lora", task="classify", rank=2)
    out = export.run(base=str(base), delta=str(tmp_path / "delta.ckpt"), out=str(tmp_path / "adapter"))
    config = json.loads((Path(out) / "adapter_config.json").read_text())
    assert (config["modules_to_save"], config["task_type"]) == (["classifier"], "SEQ_CLS")
    heads = {
        name.removeprefix("base_model.model.") for name in open_tensors(Path(out) / "adapter_model.safetensors").names
    }
    parts = [f"classifier.{layer}.{kind}" for layer in ("dense", "out_proj") for kind in ("weight", "bias")]
    assert {name for name in heads if name.startswith("classifier")} == set(parts)
