"""The compiled graphs of all ranks, computed together, give the numbers of one rank; and a graph that is spoilt does not."""

import json
import re
from dataclasses import fields, replace

import numpy as np
import pytest

from petrun.errors import SetupError
from petrun.rehearsal.comparison import partings, require_equal
from petrun.rehearsal.compute import compute_steps
from petrun.rehearsal.step_graph import TensorType
from petrun.tensors.sharded.layout import TensorLayout
from tests.conftest import ROOT
from tests.rehearsal.computed import compiled_job
from tests.rehearsal.layouts import CASES, GOLDEN, computed_case

TOLERANCE = 1e-4
DOCS = ROOT / "docs" / "parallel.md"


@pytest.fixture(scope="module")
def columns(ascend, tmp_path_factory):
    """Two data-parallel rows of two tensor-parallel columns, one layer; the rows split weights and the optimizer's state."""
    return compiled_job(tmp_path_factory.mktemp("columns"), "llama", "dp=2,tp=2,zero=1", base={"num_hidden_layers": 1})


@pytest.fixture(scope="module")
def tokens(ascend, tmp_path_factory):
    """Two columns that split the tokens between the layers, one layer."""
    layout, base = "dp=1,tp=2,sequence=true", {"num_hidden_layers": 1}
    return compiled_job(tmp_path_factory.mktemp("tokens"), "llama", layout, base=base)


@pytest.fixture(scope="module")
def stages(ascend, tmp_path_factory):
    """Two stages of one layer, two micro-batches, dropout, and an embedding that both stages use and train."""
    base = {"tie_word_embeddings": True, "attention_dropout": 0.1}
    return compiled_job(tmp_path_factory.mktemp("stages"), "llama", "dp=1,pp=2,micro_batches=2", {"algo": "full"}, base)


def computed(job):
    run, ranks, layout = job
    return compute_steps(ranks, layout, run)


def spoilt(job, change):
    """The job with another graph on each rank: change(rank, graph) -> graph."""
    run, ranks, layout = job
    return run, [replace(rank, graph=change(rank.rank, rank.graph)) for rank in ranks], layout


def parted(job):
    """The layers whose gradients part in the first step that does."""
    return [parting.layer for parting in partings(computed(job), TOLERANCE) if parting.what == "a gradient"]


def exchange(graph, old, new):
    """The graph with other nodes in the place of one."""
    return replace(graph, nodes=tuple(n for node in graph.nodes for n in (new if node is old else [node])))


def without(pick, rank=None):
    """Take a collective out of the graphs, of one rank or all: its input goes on as it is. pick(node): whether it is the one."""

    def change(own, graph):
        taken = next(node for node in graph.nodes if pick(node))
        return exchange(graph, taken, [replace(taken, operator="Depend")]) if rank in (None, own) else graph

    return change


def all_reduce(layer):
    return lambda node: node.operator == "AllReduce" and node.layer == layer and "Grad" not in node.scope


@pytest.mark.parametrize("job", ["columns", pytest.param("tokens", marks=pytest.mark.all_only), "stages"])
def test_all_ranks_together_compute_what_one_does(job, request):
    run, ranks, layout = request.getfixturevalue(job)
    steps = computed((run, ranks, layout))
    assert len(steps) == 3 and partings(steps, TOLERANCE) == []
    assert len({step.expected_loss for step in steps}) == 3
    assert len(steps[0].gradients) == len(steps[0].values) == len(run.trained) > 3
    require_equal(layout, "float32", steps)


def test_a_graph_is_read_whole(columns):
    """Constants bit for bit, parameters with their shards, layers, groups, and nodes in an order that can be executed."""
    run, ranks, _ = columns
    graph = ranks[0].graph
    assert len(graph.inputs) == 5, "denominator, targets, and the net's three inputs"
    assert set(graph.held) == set(graph.parameters.values()) >= {*run.trained, "embed.weight", "adam_step"}
    assert graph.held["layers.0.attn.q.weight"] == TensorType("float32", (8, 32))
    assert graph.held["adam_step"] == TensorType("int32", ())
    angles = np.float32(1.0 / 10000.0 ** (np.arange(0, 4, 2) / 4)).reshape(1, 1, 1, 2)
    assert any(np.array_equal(value, angles) for value in graph.constants.values() if isinstance(value, np.ndarray))
    known = {*graph.inputs, *graph.parameters, *graph.constants}
    for node in graph.nodes:
        assert known >= set(node.inputs), node
        known.add(node.name)
    assert graph.output in known
    layers = {node.layer for node in graph.nodes}
    assert layers >= {
        "embed",
        "layers.0.attn.q",
        "layers.0.mlp.down",
        "layers.0.attn.core",
        "head",
        "optimizer",
        "clipping",
    }
    groups = {node.attributes["group_rank_ids"] for node in graph.nodes if node.operator == "AllReduce"}
    assert groups == {(0, 1), (0, 2), (0, 1, 2, 3)}


def test_a_collective_that_is_missing_is_seen(columns):
    job = spoilt(columns, without(all_reduce("layers.0.mlp.down")))
    with pytest.raises(
        SetupError, match=r"computes other numbers than one rank(.|\n)*step 1, layers\.0\.attn\.q: a gradient"
    ):
        require_equal(columns[2], "float32", computed(job))


def test_a_collective_that_one_rank_leaves_out_is_named(columns):
    with pytest.raises(
        SetupError,
        match=r"rank 0 at AllReduce of layers\.0\.attn\.o over ranks 0,1, but rank 1 is at AllGather of layers\.0\.mlp",
    ):
        computed(spoilt(columns, without(all_reduce("layers.0.attn.o"), rank=1)))


def test_the_sum_of_a_weights_gradient_over_its_replicas_is_missed(columns):
    def is_sum(node):
        return node.operator == "AllReduce" and "_MirrorOperator" in node.scope and node.layer == "layers.0.attn.v"

    assert parted(spoilt(columns, without(is_sum))) == ["layers.0.attn.v"]


def test_a_gradient_that_is_scattered_without_a_sum_is_missed(columns):
    """The rows split B: each rank keeps its part of its own gradient instead of the sum's."""

    def change(rank, graph):
        scatter = next(n for n in graph.nodes if n.operator == "ReduceScatter" and n.layer == "layers.0.attn.v")
        (shape,) = (kind.shape for kind in scatter.results)
        first = shape[0] * scatter.attributes["group_rank_ids"].index(rank)
        limits = {"first": (first, 0), "stop": (first + shape[0], shape[1]), "step": (1, 1)}
        own = replace(scatter, operator="StridedSlice", inputs=(scatter.inputs[0], *limits))
        return replace(exchange(graph, scatter, [own]), constants={**graph.constants, **limits})

    assert parted(spoilt(columns, change)) == ["layers.0.attn.v"]


def test_a_gradient_that_is_summed_once_too_often_is_seen(columns):
    """As if each of four ranks counted it."""
    name = columns[0].trained[0]

    def change(rank, graph):
        own = {name: inner for inner, name in graph.parameters.items()}
        adam = next(node for node in graph.nodes if node.operator == "Adam" and node.inputs[0] == own[name])
        kind = TensorType("float32", graph.held[name].shape)
        scaled = replace(adam, name="scaled", operator="Mul", inputs=(adam.inputs[9], "ranks"), results=(kind,))
        moved = replace(adam, inputs=(*adam.inputs[:9], "scaled", *adam.inputs[10:]))
        return replace(exchange(graph, adam, [scaled, moved]), constants={**graph.constants, "ranks": np.float32(4.0)})

    # In the second step: B is 0 in the first, and with it the gradient of A.
    steps = computed(spoilt(columns, change))
    found = [parting.layer for parting in partings(steps, TOLERANCE)]
    assert set(found) == {"layers.0.attn.q"} and name == "layers.0.attn.q.mindpet_delta_lora_a"


class Exchanged(TensorLayout):
    """Of each two neighbouring ranks each holds the other's shard."""

    def slices(self, device, shard):
        return super().slices(device ^ 1, shard)


def test_shards_that_change_places_are_seen(columns):
    run, ranks, layout = columns
    name = "layers.0.attn.k.weight"
    exchanged = Exchanged(**{f.name: getattr(ranks[0].layouts[name], f.name) for f in fields(TensorLayout)})
    found = parted((run, [replace(r, layouts={**r.layouts, name: exchanged}) for r in ranks], layout))
    assert found[0] == "layers.0.attn.q"


def test_a_micro_batch_that_is_shifted_on_one_stage_is_seen(stages):
    """The last stage scores the first micro-batch's targets twice."""

    def change(rank, graph):
        if rank == 0:
            return graph
        made = {node.name: node for node in graph.nodes}
        first, second = [
            node
            for node in graph.nodes
            if node.operator == "StridedSlice" and made.get(node.inputs[0], node).inputs[0] == graph.inputs[0]
        ]
        return exchange(graph, second, [replace(second, inputs=(second.inputs[0], *first.inputs[1:]))])

    found = parted(spoilt(stages, change))
    assert {"layers.0.attn.v", "layers.1.attn.v"} <= set(found)


def test_a_stage_that_receives_nothing_is_named(stages):
    def change(rank, graph):
        return without(lambda node: node.operator == "Send", rank=0)(rank, graph)

    with pytest.raises(SetupError, match=r"rank 1 at Receive of .* waits for rank 0, which sends nothing"):
        computed(spoilt(stages, change))


@pytest.mark.all_only
@pytest.mark.parametrize("name", json.loads(GOLDEN.read_text()))
def test_every_layout_computes_what_one_rank_does(ascend, tmp_path, name):
    """Loss, norm, gradients and values over three steps; and the losses that this layout had when it was first proved."""
    steps, found = computed_case(name, tmp_path / "case")
    assert found == []
    golden = json.loads(GOLDEN.read_text())[name]
    np.testing.assert_allclose(
        [step.loss for step in steps], golden, rtol=1e-4 if CASES[name].dtype == "float32" else 1e-2
    )


def test_every_case_was_computed_and_is_named_in_the_docs():
    """A case without golden losses was not proved, and a statement that names no case is none."""
    named = set(re.findall(r"`((?:llama|bert|gpt2|roberta|opt|bloom|glm4|t5)-[a-z]+\d?-[\w-]+)`", DOCS.read_text()))
    assert list(json.loads(GOLDEN.read_text())) == list(CASES)
    assert named == set(CASES)
