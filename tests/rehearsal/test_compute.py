"""The compiled graphs of all ranks, computed together, give the numbers of one rank; and a graph that is spoilt does not."""

from dataclasses import replace

import pytest

from petrun.errors import SetupError
from petrun.rehearsal.comparison import partings, require_equal
from petrun.rehearsal.compute import compute_steps
from tests.rehearsal.computed import compiled_job

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def columns(ascend, tmp_path_factory):
    """Two data-parallel rows of two tensor-parallel columns."""
    return compiled_job(tmp_path_factory.mktemp("columns"), "llama", "dp=2,tp=2")


def computed(job):
    run, ranks, layout = job
    return compute_steps(ranks, layout, run)


def spoilt(job, change):
    """The job with another graph on each rank: change(rank, nodes) -> nodes."""
    run, ranks, layout = job
    return run, [replace(r, graph=replace(r.graph, nodes=tuple(change(r.rank, r.graph.nodes)))) for r in ranks], layout


def test_tensor_parallel_steps_equal_those_of_one_rank(columns):
    steps = computed(columns)
    assert len(steps) == 3 and partings(steps, TOLERANCE) == []
    assert len({step.expected_loss for step in steps}) == 3
    assert len(steps[0].gradients) == len(columns[0].trained) == 8
    require_equal(columns[2], "float32", steps)


def without(operator, layer, rank=None):
    """Take the first collective of a layer out of the graphs: its input goes on as it is."""

    def change(own, nodes):
        taken = next(n for n in nodes if n.operator == operator and n.layer == layer)
        gone = replace(taken, operator="Depend")
        return [gone if n is taken and rank in (None, own) else n for n in nodes]

    return change


def test_a_collective_that_is_missing_is_seen(columns):
    job = spoilt(columns, without("AllReduce", "layers.1.mlp.down"))
    with pytest.raises(SetupError, match=r"computes other numbers than one rank(.|\n)*layers\.\d\.attn"):
        require_equal(columns[2], "float32", computed(job))


def test_a_collective_that_one_rank_leaves_out_is_named(columns):
    with pytest.raises(
        SetupError, match=r"rank 0 at AllReduce of layers\.0\.attn\.o meets rank 1 at AllReduce of layers\.0\.mlp\.down"
    ):
        computed(spoilt(columns, without("AllReduce", "layers.0.attn.o", rank=1)))
