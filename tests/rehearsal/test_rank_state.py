"""What a rank holds before a step: its shards of the whole values, and nothing of what another stage sends it."""

import numpy as np
import pytest

from petrun.errors import SetupError
from petrun.parallel.layout import Layout
from petrun.rehearsal.one_rank import OneRankRun
from petrun.rehearsal.rank_state import CompiledRank, set_values, variables_of
from petrun.rehearsal.step_graph import StepGraph, TensorType
from petrun.tensors.sharded.layout import TensorLayout

TWO_STAGES = Layout(tp=2, pp=2, micro_batches=2)
ROWS = TensorLayout(devices=(2,), axes=((0,), ()))
TABLE = np.arange(12, dtype=np.float32).reshape(6, 2)


def rank(number, held, layouts):
    graph = StepGraph(inputs=(), parameters={}, held=held, constants={}, nodes=(), output="")
    return CompiledRank(rank=number, graph=graph, adding=None, layouts=layouts, numbers={"adam_step": 2.0})


def run(**initial):
    return OneRankRun(initial=initial, batches=[], after=[], loss=[], norm=[], trained=[], beta1=0.9)


def test_a_rank_holds_its_shard():
    held = {"embed.weight": TensorType("float32", (3, 2)), "adam_step": TensorType("int32", ())}
    own = rank(1, held, {"embed.weight": ROWS})
    found = variables_of(own, TWO_STAGES, run(**{"embed.weight": TABLE}))
    np.testing.assert_array_equal(found["embed.weight"].value, TABLE[3:])
    assert found["adam_step"].value == 2
    set_values(own, TWO_STAGES, {"embed.weight": -TABLE}, found)
    np.testing.assert_array_equal(found["embed.weight"].value, -TABLE[3:])


def test_a_stage_holds_no_values_of_what_another_sends():
    """A tied embedding on the last stage: its graph has the shard's shape, and its strategy does not list it."""
    own = rank(2, {"embed.weight": TensorType("float32", (3, 2))}, {"norm.weight": ROWS})
    found = variables_of(own, TWO_STAGES, run(**{"embed.weight": TABLE}))
    assert found["embed.weight"].value.shape == (3, 2) and np.isnan(found["embed.weight"].value).all()
    set_values(own, TWO_STAGES, {"embed.weight": TABLE}, found)
    assert np.isnan(found["embed.weight"].value).all() and not own.updates("embed.weight")


def test_a_graph_that_holds_another_shard_than_its_strategy_says_is_named():
    own = rank(0, {"embed.weight": TensorType("float32", (6, 2))}, {"embed.weight": ROWS})
    with pytest.raises(SetupError, match=r"rank 0: embed\.weight is \(6, 2\) in the compiled graph, and \(3, 2\) by"):
        variables_of(own, TWO_STAGES, run(**{"embed.weight": TABLE}))
