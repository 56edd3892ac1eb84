"""Compute the first steps of a job: the compiled graphs of all ranks in lock step, held against the run of one rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from petrun.parallel.layout import Layout
from petrun.rehearsal.interpreter import run_graph
from petrun.rehearsal.lock_step import run_together
from petrun.rehearsal.one_rank import OneRankRun, gradient_of
from petrun.rehearsal.operators.types import Variable
from petrun.rehearsal.rank_state import CompiledRank, cut, set_counters, step_inputs, variables_of
from petrun.tensors import Array


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Holds the largest difference of one parameter's gradients, or values, over all ranks."""

    name: str
    rank: int
    size: float
    """Over the largest value of the one-rank run."""


@dataclass(frozen=True, kw_only=True)
class ComputedStep:
    """Holds one step of all ranks, beside that of one."""

    loss: float
    expected_loss: float
    norm: float
    expected_norm: float
    gradients: list[Difference] = field(repr=False)
    """One for each trained parameter, in the net's order."""
    values: list[Difference] = field(repr=False)


def compute_steps(ranks: Sequence[CompiledRank], layout: Layout, run: OneRankRun) -> list[ComputedStep]:
    """Execute all steps of the run on all ranks. Raises SetupError for what cannot be computed, and for ranks that wait for ever."""
    held = {rank.rank: variables_of(rank, layout, run) for rank in ranks}
    return [_step(ranks, layout, run, held, number) for number in range(len(run.loss))]


def _step(
    ranks: Sequence[CompiledRank],
    layout: Layout,
    run: OneRankRun,
    held: Mapping[int, Mapping[str, Variable]],
    number: int,
) -> ComputedStep:
    before = {rank: {name: v.value for name, v in own.items()} for rank, own in held.items()}
    losses, norms = _execute(ranks, layout, run, held, number)
    gradients, values = [], []
    for name in run.trained:
        found = [rank for rank in ranks if f"adam_m.{name}" in rank.graph.held]
        gradient, after = run.gradient(name, number), run.after[number][name]
        own_gradients, own_values = [], []
        for rank in found:
            m = f"adam_m.{name}"
            got = gradient_of(before[rank.rank][m], held[rank.rank][m].value, run.beta1)
            own_gradients.append(_difference(name, rank, got, cut(rank, layout, m, gradient), gradient))
            own_values.append(
                _difference(name, rank, held[rank.rank][name].value, cut(rank, layout, name, after), after)
            )
        gradients.append(max(own_gradients, key=lambda d: d.size))
        values.append(max(own_values, key=lambda d: d.size))
    return ComputedStep(
        loss=_farthest(losses, run.loss[number]),
        expected_loss=run.loss[number],
        norm=_farthest(norms, run.norm[number]),
        expected_norm=run.norm[number],
        gradients=gradients,
        values=values,
    )


def _execute(
    ranks: Sequence[CompiledRank],
    layout: Layout,
    run: OneRankRun,
    held: Mapping[int, Mapping[str, Variable]],
    number: int,
) -> tuple[list[float], list[float]]:
    """Execute one step, micro-batch by micro-batch. Returns (loss, gradient norm) of each rank."""
    group, denominator = run.batches[number], run.denominator(number)
    losses, norms = [0.0] * len(ranks), [0.0] * len(ranks)
    for position, batch in enumerate(group):
        runs = {}
        for rank in ranks:
            own = held[rank.rank]
            inputs, first, rows = step_inputs(rank.rank, layout, batch, denominator)
            set_counters(own, number * len(group) + position, first, rows, denominator)
            graph = rank.graph if position == len(group) - 1 or rank.adding is None else rank.adding
            runs[rank.rank] = run_graph(graph, own, inputs)
        results = run_together(runs, layout.world)
        losses = [loss + float(results[rank.rank][0]) for loss, rank in zip(losses, ranks, strict=True)]
        norms = [float(results[rank.rank][1]) for rank in ranks]
    return losses, norms


def _farthest(found: Sequence[float], expected: float) -> float:
    """Return the rank's number that is farthest from the expected one; one that is not finite is."""
    return max(found, key=lambda value: abs(value - expected) if np.isfinite(value) else np.inf)


def _difference(name: str, rank: CompiledRank, found: Array, expected: Array, full: Array) -> Difference:
    largest = float(np.max(np.abs(full)))
    size = float(np.max(np.abs(found - expected), initial=0.0))
    return Difference(name=name, rank=rank.rank, size=size / largest if largest else size)
