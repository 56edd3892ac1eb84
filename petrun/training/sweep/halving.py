"""Successive halving: all runs take a few steps, the best of them take more, and the best of those come to their end.

Of n runs, floor(log_eta n) times the best 1/eta go on; each time they have come eta times as far.

Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", arXiv 1502.07943, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from petrun.evaluate.metrics import Metric
from petrun.training.sweep.plan import PlannedRun
from petrun.training.sweep.results import MemberResult, ranked


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A point at which the worst runs are left."""

    share: float
    """Of a run's steps, that it has taken then."""
    kept: int
    """How many runs go on."""

    def steps(self, run: PlannedRun) -> int:
        """Return how many steps of its own a run takes up to here."""
        return max(1, round(self.share * run.resolved.plan.total_steps))


def rungs(runs: int, eta: int) -> tuple[Rung, ...]:
    """Return the points of a sweep of so many runs, the first one first."""
    counts = []
    while runs // eta >= 1:
        runs = -(-runs // eta)
        counts.append(runs)
        if runs == 1:
            break
    return tuple(Rung(share=float(eta) ** (i - len(counts)), kept=kept) for i, kept in enumerate(counts))


def steps_of(planned: Sequence[PlannedRun], points: Sequence[Rung]) -> int:
    """Return how many steps a sweep takes, its runs having as many as the longest where they differ."""
    longest = max(one.resolved.plan.total_steps for one in planned)
    if not points:
        return sum(one.resolved.plan.total_steps for one in planned)
    taken, done, alive = 0.0, 0.0, len(planned)
    for point in points:
        taken += alive * (point.share - done) * longest
        done, alive = point.share, point.kept
    return round(taken + alive * (1.0 - done) * longest)


def best_of(
    planned: Sequence[PlannedRun],
    points: Sequence[Rung],
    metric: Metric,
    pause: Callable[[PlannedRun, int], MemberResult],
) -> tuple[list[PlannedRun], list[MemberResult]]:
    """Return (the runs that come to their end, what came out of the others). `pause` takes a run up to a step and scores it."""
    left: list[MemberResult] = []
    alive = list(planned)
    for point in points:
        found = ranked([pause(one, point.steps(one)) for one in alive], metric)
        going = [one.name for one in found if one.finished][: point.kept]
        left = [one.left() if one.finished else one for one in found if one.name not in going] + left
        alive = [one for one in alive if one.member.name in going]
    return alive, left
