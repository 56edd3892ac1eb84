"""Successive halving on runs whose scores are known."""

from types import SimpleNamespace

import pytest

from petrun.evaluate.metrics import METRICS
from petrun.training.sweep.halving import best_of, rungs, steps_of
from petrun.training.sweep.results import FINISHED, MemberResult


def runs(count, steps=90):
    plan = SimpleNamespace(plan=SimpleNamespace(total_steps=steps))
    return [SimpleNamespace(member=SimpleNamespace(name=str(i)), resolved=plan) for i in range(count)]


@pytest.mark.parametrize(
    "count, eta, expected",
    [
        (9, 3, [(1 / 9, 3), (1 / 3, 1)]),
        (8, 2, [(1 / 8, 4), (1 / 4, 2), (1 / 2, 1)]),
        (4, 2, [(1 / 4, 2), (1 / 2, 1)]),
        (5, 3, [(1 / 3, 2)]),
        (2, 3, []),
        (1, 2, []),
    ],
)
def test_a_share_of_the_runs_is_left_at_each_point(count, eta, expected):
    found = [(point.share, point.kept) for point in rungs(count, eta)]
    assert found == [(pytest.approx(share), kept) for share, kept in expected]


def test_the_best_go_on_and_each_run_is_asked_at_its_own_steps():
    """Run 4 is the best, run 0 diverges; lower losses are better."""
    asked = []

    def pause(one, step):
        asked.append((one.member.name, step))
        if one.member.name == "0":
            return MemberResult(name="0", outcome="step 1: the loss is not finite")
        loss = abs(int(one.member.name) - 4.1)
        return MemberResult(name=one.member.name, outcome=FINISHED, scores={"loss": loss}, step=step)

    planned = runs(9)
    points = rungs(9, 3)
    alive, left = best_of(planned, points, METRICS["loss"], pause)
    assert [one.member.name for one in alive] == ["4"]
    assert asked == [*((str(i), 10) for i in range(9)), ("3", 30), ("4", 30), ("5", 30)]
    outcomes = {one.name: one.outcome for one in left}
    assert outcomes["0"] == "step 1: the loss is not finite"
    assert outcomes["3"] == "left after step 30" and outcomes["8"] == "left after step 10"
    assert len(left) == 8
    assert steps_of(planned, points) == 9 * 10 + 3 * 20 + 60
    assert steps_of(planned, ()) == 9 * 90


def test_none_goes_on_where_all_diverge():
    alive, left = best_of(
        runs(2), rungs(2, 2), METRICS["loss"], lambda one, step: MemberResult(name=one.member.name, outcome="diverged")
    )
    assert not alive and [one.outcome for one in left] == ["diverged", "diverged"]
