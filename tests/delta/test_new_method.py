"""A new algorithm is one file and one line: a record in METHODS goes through every command, which no other file was changed for.

The method of these tests adds a product of rank 1 to every layer: y = x W^T + b + (x u^T) v^T, u (1, in) drawn, v (out, 1) zero at first.
"""

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, ops
from pydantic import Field

from petrun.checkpoint.delta import read_delta
from petrun.delta import METHODS
from petrun.delta.dense import CastDense, TargetConfig, adopt, arguments_like, drawn
from petrun.delta.forms import AdapterTensors, LayerTensor, LowRankUpdate, factors_of, layers_with
from petrun.delta.method import ALL, Method
from petrun.graph.compilations import compilations
from petrun.graph.surgery import resolve_targets, swap
from petrun.tensors import open_tensors
from tests.deltas import make_delta

U, V = "mindpet_delta_outer_u", "mindpet_delta_outer_v"
TENSORS = {U: LayerTensor(axes=2, inputs=1), V: LayerTensor(axes=2, outputs=0)}


class OuterConfig(TargetConfig):
    """Settings of the method."""

    gain: float = Field(2.0, gt=0.0, description="scale of the product")


class OuterDense(CastDense):
    """A linear layer with a product of rank 1 beside it."""

    def __init__(self, dense, path, gain, seed):
        super().__init__(dense.in_channels, dense.out_channels, **arguments_like(dense))
        first = drawn(path, (1, dense.in_channels), dense.in_channels, seed)
        self.mindpet_delta_outer_u = Parameter(Tensor(first), name=U)
        self.mindpet_delta_outer_v = Parameter(Tensor(np.zeros((dense.out_channels, 1), np.float32)), name=V)
        self.gain = gain
        self.product = ops.MatMul(transpose_b=True)

    def construct(self, x):
        rows = self.reshape(x, (-1, x.shape[-1]))
        added = self.product(self.product(rows, self.mindpet_delta_outer_u), self.mindpet_delta_outer_v)
        return self.reshape(self.plain(rows) + self.gain * added, (*x.shape[:-1], self.out_channels))


def attach(net, config, sites, seed):
    def builder(path):
        return lambda dense: adopt(OuterDense(dense, path, config.gain, seed), dense)

    return swap(net, {path: builder(path) for path in resolve_targets(net, sites, config.target, config.exclude)})


def merge(config, tensors):
    def update(name, value, rows=ALL):
        path, _, leaf = name.rpartition(".")
        if leaf != "weight" or f"{path}.{U}" not in tensors:
            return value
        return value + np.float32(config.gain) * (tensors[f"{path}.{V}"][rows] @ tensors[f"{path}.{U}"])

    return update


def low_rank(config, tensors):
    for path in layers_with(tensors, TENSORS):
        factors = factors_of(tensors, path, U, V, 1)
        yield path, LowRankUpdate(b=factors.b, a=factors.a, scale=config.gain)


def switch(config, tensors, sites, base):
    return AdapterTensors(products={path: update.scaled() for path, update in low_rank(config, tensors)})


OUTER = Method(
    name="outer",
    config=OuterConfig,
    default_lr=0.05,
    attach=attach,
    tensors=TENSORS,
    merge=merge,
    low_rank=low_rank,
    switch=switch,
)
DATA = "--base gpt2 --data orders.jsonl"


@pytest.fixture
def run(place, petrun, monkeypatch):
    """run("eval ...") -> what it printed, with the method in the table; a command that fails is a failure of the test."""
    monkeypatch.setitem(METHODS, "outer", OUTER)

    def check(line):
        done = petrun(line)
        assert done.code == 0, done.err
        return done.out

    return check


def scores(place, run, line):
    run(f"eval {line} --out scores.json")
    return json.loads((place / "scores.json").read_text())


def test_a_new_method_goes_through_every_command(place, run, petrun):
    run(f"train {DATA} --eval-data orders.jsonl --algo outer --set delta.gain=3 --schedule constant --steps 3 --out it")
    assert ms.get_context("mode") == ms.GRAPH_MODE
    trained = json.loads((place / "it" / "results.json").read_text())
    tensors = read_delta(place / "it").tensors
    assert trained["algo"] == "outer" and trained["trainable_parameters"] == sum(v.size for v in tensors.values())
    assert {name.rpartition(".")[2] for name in tensors} == {U, V} and all(
        np.abs(v).max() > 0 for v in tensors.values()
    )

    # Read back, it scores what it scored at the end of its training.
    alone = scores(place, run, f"{DATA} --delta it")
    assert alone["delta"]["loss"] == pytest.approx(trained["delta"]["loss"], abs=1e-6)
    assert abs(alone["delta"]["loss"] - alone["base"]["loss"]) > 1e-3

    # Merged, every adapted weight is W + gain * v u, and the model alone scores the same.
    run("merge --base gpt2 --delta it --out merged")
    base, merged = (
        open_tensors(place / "gpt2" / "model.safetensors"),
        open_tensors(place / "merged" / "model.safetensors"),
    )
    changed = [name for name in base.names if not np.array_equal(base.read(name), merged.read(name))]
    updates = sorted((3 * (tensors[n.replace(U, V)] @ tensors[n])).sum() for n in tensors if n.endswith(U))
    differences = sorted((merged.read(name) - base.read(name)).sum(dtype=np.float64) for name in changed)
    np.testing.assert_allclose(differences, updates, atol=1e-4)
    assert scores(place, run, "--base merged --data orders.jsonl")["base"]["loss"] == pytest.approx(
        alone["delta"]["loss"], abs=1e-5
    )

    # Its norms are those of the products.
    told = json.loads(run("delta info it --json"))
    assert told["algorithm"] == "outer" and told["settings"]["gain"] == 3.0
    norms = {each["name"]: (each["norm"], each["rank"]) for each in told["tensors"]}
    for name in (name for name in tensors if name.endswith(U)):
        expected = 3 * np.linalg.norm(tensors[name].astype(np.float64)) * np.linalg.norm(tensors[name.replace(U, V)])
        assert norms[name.removesuffix(f".{U}")] == (pytest.approx(expected, rel=1e-6), 1)

    # Beside another delta it is switched in one graph.
    make_delta(place / "a.ckpt", place / "gpt2", "lora", rank=2, size=0.5)
    with compilations() as count:
        both = scores(place, run, f"{DATA} --metrics loss --delta it --delta a.ckpt")
    assert both["one_pass"] and count.graphs == 1
    assert both["deltas"]["it"]["loss"] == pytest.approx(alone["delta"]["loss"], abs=1e-4)

    # It resumes, is listed, and is a plain LoRA where that is asked for; where it has no form, that is said.
    run("resume it --set train.steps=4 --allow train.steps")
    assert json.loads((place / "it" / "results.json").read_text())["steps"] == 4
    assert "outer" in run("algorithms") and "delta.gain" in run("algorithms outer")
    run("delta convert it --as lora --out plain.ckpt")
    assert read_delta(place / "plain.ckpt").algo == "lora"
    refused = petrun("delta convert it --base gpt2 --out adapter --to peft")
    assert refused.code == 1 and "which has no peft form" in refused.err


@pytest.mark.parametrize("missing", ["switch", "merge"])
def test_what_a_record_leaves_out_is_refused(place, run, petrun, monkeypatch, missing):
    from dataclasses import replace

    make_delta(place / "it.ckpt", place / "gpt2", "outer", size=0.5)
    monkeypatch.setitem(METHODS, "outer", replace(OUTER, **{missing: None}))
    if missing == "merge":
        done = petrun("merge --base gpt2 --delta it.ckpt --out merged")
        assert done.code == 1 and "a outer delta cannot be" in done.err
        return
    make_delta(place / "a.ckpt", place / "gpt2", "lora", rank=2, size=0.5)
    both = scores(place, run, f"{DATA} --metrics loss --delta it.ckpt --delta a.ckpt")
    assert not both["one_pass"]
