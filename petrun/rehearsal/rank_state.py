"""What one rank of a job holds before a step, cut from the values of the run of one rank, and what it is given at each step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from petrun.data.batches.rank_share import RankShare
from petrun.errors import SetupError
from petrun.parallel.layout import Layout
from petrun.rehearsal.job import STRATEGY_FILE
from petrun.rehearsal.one_rank import OneRankRun
from petrun.rehearsal.operators.types import Value, Variable, rounded
from petrun.rehearsal.step_graph import StepGraph, read_graph
from petrun.tensors import Array
from petrun.tensors.sharded.layout import TensorLayout
from petrun.tensors.sharded.strategy_file import scan_strategy

_GRAPH_FILE = "step.mindir"
_ADDING_FILE = "adding.mindir"
_NUMBERS_FILE = "numbers.json"
_SUMS = ("grad_sum.", "accu_grads.")
_COUNTER = "petrun_dropout_step"
_OFFSET = "petrun_batch_offset"


@dataclass(frozen=True, kw_only=True)
class CompiledRank:
    """Holds what the compilation of one rank left."""

    rank: int
    graph: StepGraph = field(repr=False)
    adding: StepGraph | None = field(repr=False)
    """The graph of a micro-batch that adds to the gradients and updates nothing; None without accumulation."""
    layouts: Mapping[str, TensorLayout] = field(repr=False)
    """Parameter -> how its stage shards it; {} where nothing is sharded."""
    numbers: Mapping[str, float] = field(repr=False)
    """Parameters of one number -> value: the loss scale, the counters."""

    def owns(self, name: str) -> bool:
        """Whether the rank's stage holds values of a parameter of its graph. A tied embedding's copy on the last stage, which the first
        sends at each step, stands in no strategy of that stage, with its moments."""
        return not self.layouts or name in self.layouts

    def updates(self, name: str) -> bool:
        """Whether the rank's stage owns and trains a parameter."""
        return f"adam_m.{name}" in self.graph.held and self.owns(name)


def write_compiled(folder: Path, graph: bytes, adding: bytes | None, numbers: Mapping[str, float]) -> None:
    """Write what `read_rank` reads."""
    (folder / _GRAPH_FILE).write_bytes(graph)
    if adding is not None:
        (folder / _ADDING_FILE).write_bytes(adding)
    (folder / _NUMBERS_FILE).write_text(json.dumps(numbers), encoding="utf-8")


def read_rank(folder: Path, rank: int) -> CompiledRank:
    """Read what the rank's process wrote into its folder."""
    strategy, adding = folder / STRATEGY_FILE, folder / _ADDING_FILE
    return CompiledRank(
        rank=rank,
        graph=read_graph((folder / _GRAPH_FILE).read_bytes()),
        adding=read_graph(adding.read_bytes()) if adding.is_file() else None,
        layouts=scan_strategy(strategy).layouts if strategy.is_file() else {},
        numbers=json.loads((folder / _NUMBERS_FILE).read_text(encoding="utf-8")),
    )


def cut(rank: CompiledRank, layout: Layout, name: str, full: Array) -> Array:
    """Return the shard of a full tensor that the rank holds. Raises SetupError where the graph holds another."""
    expected = rank.graph.held[name].shape
    sharding = rank.layouts.get(name)
    if sharding is None:
        found = full
    else:
        device = rank.rank % (layout.dp * layout.tp)
        found = full[sharding.slices(device, sharding.shard_shape(full.shape))]
    if found.shape != expected:
        raise SetupError(
            f"rank {rank.rank}: {name} is {expected} in the compiled graph, and {found.shape} by the strategy of its stage"
        )
    return found


def variables_of(rank: CompiledRank, layout: Layout, run: OneRankRun) -> dict[str, Variable]:
    """Return every parameter of the rank's step before the first step."""
    found = {}
    for name, kind in rank.graph.held.items():
        if name in rank.numbers:
            value = np.asarray(rank.numbers[name])
        elif (name.startswith(_SUMS) and name not in run.initial) or name.startswith((_COUNTER, _OFFSET)):
            value = np.zeros(kind.shape)
        elif not rank.owns(name):
            # What another stage sends: where the graph reads this instead of what it receives, all figures show it.
            value = np.full(kind.shape, np.nan)
        else:
            value = cut(rank, layout, name, run.initial[name])
        found[name] = Variable(rounded(value, kind))
    return found


def set_values(
    rank: CompiledRank, layout: Layout, values: Mapping[str, Array], variables: Mapping[str, Variable]
) -> None:
    """Give a rank its shards of values that one rank has after a step."""
    for name, value in values.items():
        if name in variables and rank.owns(name):
            variables[name].value = rounded(cut(rank, layout, name, value), rank.graph.held[name])


def set_counters(variables: Mapping[str, Variable], micro: int, first: int, rows: int, denominator: float) -> None:
    """Set what a run sets before each micro-batch: dropout's counters, the rows of the rank, and a pipeline's denominator."""
    for name, variable in variables.items():
        if name.startswith(_COUNTER):
            variable.value = np.asarray(micro, np.int32)
        elif name == _OFFSET:
            variable.value = np.asarray([first, rows], np.int32)
        elif name == "denominator":
            variable.value = np.asarray(denominator, np.float32)
        elif name == "part_scale":
            variable.value = variables["loss_scale"].value if "loss_scale" in variables else variable.value


def step_inputs(
    rank: int, layout: Layout, batch: Mapping[str, Array], denominator: float
) -> tuple[list[Value], int, int]:
    """Return (inputs of the rank's graph, index of its first row, rows). Where operators are split a graph gets the whole batch."""
    count = len(batch["targets"])
    first, stop = 0, count
    if not layout.split:
        first, stop = RankShare(index=layout.coordinates(rank)[1], parts=layout.dp).bounds(count)
    targets = batch["targets"][first:stop]
    inputs = [array[first:stop] for name, array in batch.items() if name != "targets"]
    head = [] if layout.pp > 1 else [np.asarray(denominator, np.float32)]
    return [*head, targets, *inputs], first, stop - first
