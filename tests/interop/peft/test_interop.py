"""Exports are those that transformers and peft have loaded: by digest, and once more with the libraries where they are installed."""

import importlib.util
import json

import mindspore as ms
import numpy as np
import pytest

from petrun.commands import merge
from petrun.config.commands.merge import MergeSettings
from petrun.models.factory import load_model
from tests.interop.peft.interop import LIBRARIES, STORED, cases, digest_of, in_theirs, logits, make

pytestmark = pytest.mark.usefixtures("pynative")
BY_DEFAULT = {"peft": "llama", "merged": "gpt2"}


def matrix():
    for kind, method, family in cases():
        only = [f for k, m, f in cases() if (k, m) == (kind, method)]
        usual = BY_DEFAULT[kind] if BY_DEFAULT[kind] in only else only[0]
        marks = () if family == usual else pytest.mark.all_only
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
