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
from petrun.rehearsal.rank_state import CompiledRank, cut, set_counters, set_values, step_inputs, variables_of
from petrun.tensors import Array


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Says how closely the steps of a compute dtype must follow those of float32."""

    tolerance: float
    """Largest relative difference."""
    half: bool = False
    """Root mean squares are compared, of rounding that is random, instead of the largest elements."""


PRECISIONS = {
    "float32": Precision(tolerance=1e-4),
    "float16": Precision(tolerance=1e-2, half=True),
    "bfloat16": Precision(tolerance=5e-2, half=True),
}
_SMALL = 1e-2
"""Share of the step's largest gradient: the gradients of a parameter that are all smaller are compared by this scale."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Holds the largest difference of one parameter's gradients, or values, over all ranks."""

    name: str
    rank: int
    size: float
    """Over the largest value of the one-rank run; in half precision over its root mean square."""


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


def compute_steps(
    ranks: Sequence[CompiledRank], layout: Layout, run: OneRankRun, dtype: str = "float32"
) -> list[ComputedStep]:
    """Execute all steps of the run on all ranks, each step from the values that one rank had before it.

    Adam turns rounding of a gradient near 0 into a step of full size, so that two orders of the same sum would part after some steps.
    Raises SetupError for what cannot be computed, and for ranks that wait for ever.
    """
    held = {rank.rank: variables_of(rank, layout, run) for rank in ranks}
    found = []
    for number in range(len(run.loss)):
        if number:
            for rank in ranks:
                set_values(rank, layout, run.after[number - 1], held[rank.rank])
        before = {rank: {name: v.value for name, v in own.items()} for rank, own in held.items()}
        losses, norms = _execute(ranks, layout, run, held, number)
        gradients, values = _differences(ranks, layout, run, number, (before, held), PRECISIONS[dtype])
        found.append(
            ComputedStep(
                loss=_farthest(losses, run.loss[number]),
                expected_loss=run.loss[number],
                norm=_farthest(norms, run.norm[number]),
                expected_norm=run.norm[number],
                gradients=gradients,
                values=values,
            )
        )
    return found


Values = Mapping[int, Mapping[str, Array]]
Held = Mapping[int, Mapping[str, Variable]]


def _differences(
    ranks: Sequence[CompiledRank],
    layout: Layout,
    run: OneRankRun,
    number: int,
    state: tuple[Values, Held],
    precision: Precision,
) -> tuple[list[Difference], list[Difference]]:
    """Return the differences of (gradients, updated values) of each parameter. `state`: before the step, and after it.

    Values are compared where the gradient agrees relative to itself. Elsewhere (the bias of the keys in attention) it is little but
    rounding, and so is the step that Adam makes of it.
    """
    before, held = state
    size = _root_mean_square if precision.half else _largest
    floor = _SMALL * max(size(run.gradient(name, number)) for name in run.trained)
    gradients, values = [], []
    for name in run.trained:
        m = f"adam_m.{name}"
        gradient, after = run.gradient(name, number), run.after[number][name]
        own_gradients, own_values = [], []
        for rank in (rank for rank in ranks if rank.updates(name)):
            own, expected = held[rank.rank], cut(rank, layout, m, gradient)
            error = gradient_of(before[rank.rank][m], own[m].value, run.beta1) - expected
            own_gradients.append(_difference(name, rank, size(error), max(size(gradient), floor)))
            agrees = np.abs(error) <= precision.tolerance * np.abs(expected)
            error = (own[name].value - cut(rank, layout, name, after)) * agrees
            own_values.append(_difference(name, rank, size(error), size(after)))
        gradients.append(max(own_gradients, key=lambda difference: difference.size))
        values.append(max(own_values, key=lambda difference: difference.size))
    return gradients, values


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


def _difference(name: str, rank: CompiledRank, size: float, scale: float) -> Difference:
    """Relate a difference to a scale; one that is not a number is infinite."""
    found = size / scale if scale else size
    return Difference(name=name, rank=rank.rank, size=found if np.isfinite(found) else float("inf"))


def _largest(values: Array) -> float:
    return float(np.max(np.abs(values), initial=0.0))


def _root_mean_square(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
