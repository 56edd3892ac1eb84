"""The loop: batch arithmetic, log records, dropout counter, and a stop on NaN that names step and rows."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from petrun.errors import TrainingError
from petrun.kernels import batch_offset, step_counter
from petrun.train.loop import FaultHandling, Plan, Position, make_plan, train


class FakeStep:
    """Stands for the compiled step: notes what it is given and returns what it is told."""

    def __init__(self, losses):
        self.losses = iter(losses)
        self.calls = []

    def __call__(self, update, denominator, targets, *inputs):
        loss = next(self.losses)
        drawn = int(step_counter().asnumpy()), len(inputs), batch_offset().asnumpy().tolist()
        self.calls.append((update, float(denominator.asnumpy()), *drawn))
        value = Tensor(loss, ms.float32)
        return value, Tensor(2.0, ms.float32), Tensor(0.5, ms.float32), Tensor(bool(np.isfinite(loss)))


def batch(rows, scored=2):
    targets = np.full((len(rows), 3), -100, np.int32)
    targets[:, :scored] = 1
    return {
        "x": np.zeros((len(rows), 3), np.int32),
        "targets": targets,
        "segment_ids": np.ones((len(rows), 3), np.int32),
        "rows": rows,
    }


@pytest.mark.parametrize(
    ("per_epoch", "accumulate", "epochs", "steps", "micro", "total"),
    [
        (10, 1, None, None, 30, 30),
        (10, 4, 1, None, 10, 3),
        (10, 4, None, 5, 20, 5),
        # ceil(epochs * batches), as transformers counts its steps.
        (10, 1, 0.25, None, 3, 3),
        (5, 1, 0.5, None, 3, 3),
        (100, 1, 0.07, None, 7, 7),
        (3, 1, 0.01, None, 1, 1),
    ],
)
def test_plan(per_epoch, accumulate, epochs, steps, micro, total):
    plan = make_plan(per_epoch, accumulate, epochs, steps)
    assert (plan.total_micro_batches, plan.total_steps) == (micro, total)


def test_records_and_denominators():
    """Three micro-batches with 2, 4 and 1 supervised tokens: steps of two share a denominator, the last step has one."""
    step = FakeStep([1.0, 0.5, 4.0])
    records = []
    data = iter([batch((0,)), batch((1, 2)), batch((3,), scored=1)])
    done = train(
        step,
        data,
        Plan(micro_batches_per_epoch=3, accumulate=2, total_micro_batches=3),
        ("x",),
        lambda r: bool(records.append(r)),
    )
    assert done == 2
    assert [call[:2] for call in step.calls] == [(False, 6.0), (True, 6.0), (True, 1.0)]
    assert [call[2] for call in step.calls] == [0, 1, 2], "every micro-batch has a dropout stream of its own"
    assert [r["loss"] for r in records] == [1.5, 4.0]
    assert [r["step"] for r in records] == [1, 2]
    assert [r["tokens"] for r in records] == [9, 3]
    assert records[-1]["epoch"] == 1.0
    assert set(records[0]) == {"step", "epoch", "loss", "lr", "grad_norm", "tokens", "tokens_per_second", "seconds"}


def test_a_share_knows_the_whole_batch():
    """Denominator, tokens and rows are those of all ranks; the place in the batch is set for the dropout masks."""
    step, records = FakeStep([1.0, 1.0, float("nan")]), []
    whole = {"scored": 20, "tokens": 30, "rows": (4, 5, 6, 7)}
    data = iter([{**batch(rows), **whole, "first": first} for rows, first in (((6, 7), 2), ((4,), 1), ((5,), 3))])
    with pytest.raises(TrainingError, match="rows 4, 5, 6, 7 "):
        train(
            step,
            data,
            Plan(micro_batches_per_epoch=3, accumulate=2, total_micro_batches=3),
            ("x",),
            lambda r: bool(records.append(r)),
        )
    assert [call[1] for call in step.calls] == [40.0, 40.0, 20.0]
    assert [call[4] for call in step.calls] == [[2, 2], [1, 1], [3, 1]]
    assert [r["tokens"] for r in records] == [60]


def test_on_step_can_stop():
    step = FakeStep([1.0] * 10)
    assert (
        train(
            step,
            iter([batch((i,)) for i in range(10)]),
            Plan(micro_batches_per_epoch=10, accumulate=1, total_micro_batches=10),
            ("x",),
            lambda r: r["step"] == 3,
        )
        == 3
    )


def test_nan_names_step_and_rows():
    step = FakeStep([1.0, float("nan")])
    with pytest.raises(TrainingError) as caught:
        train(
            step,
            iter([batch((0, 1)), batch((7, 9))]),
            Plan(micro_batches_per_epoch=5, accumulate=1, total_micro_batches=5),
            ("x",),
            lambda r: False,
        )
    assert "step 2" in caught.value.message and "rows 7, 9" in caught.value.message
    assert "--lr" in caught.value.hint


def test_a_loss_scale_may_overflow_now_and_then_but_not_for_ever():
    step = FakeStep([float("inf"), 1.0, 1.0])
    assert (
        train(
            step,
            iter([batch((i,)) for i in range(3)]),
            Plan(micro_batches_per_epoch=3, accumulate=1, total_micro_batches=3),
            ("x",),
            lambda r: False,
            faults=FaultHandling(skip_overflow=True),
        )
        == 3
    )
    step = FakeStep([float("inf")] * 60)
    with pytest.raises(TrainingError, match="step 40"):
        train(
            step,
            iter([batch((i,)) for i in range(60)]),
            Plan(micro_batches_per_epoch=60, accumulate=1, total_micro_batches=60),
            ("x",),
            lambda r: False,
            faults=FaultHandling(skip_overflow=True),
        )


def test_what_is_forgiven_is_passed_over_and_a_leap_counts_as_not_finite():
    losses = [1.0, float("nan"), 1.0, 50.0, 1.0]
    told = []

    def may_continue(error, number):
        told.append((number, error.message.partition(";")[0]))
        return True

    plan = Plan(micro_batches_per_epoch=5, accumulate=1, total_micro_batches=5)
    rows = [batch((i,)) for i in range(5)]
    step = FakeStep(losses)
    done = train(
        step,
        iter(rows),
        plan,
        ("x",),
        lambda r: False,
        faults=FaultHandling(may_continue=may_continue, is_spike=lambda loss: loss > 10),
    )
    assert done == 5 and [call[2] for call in step.calls] == [0, 1, 2, 3, 4]
    assert told == [(2, "step 2: the loss is not finite (loss nan)"), (4, "step 4: the loss leapt to 50")]
    with pytest.raises(TrainingError, match=r"step 4: the loss leapt to 50; the batch held rows 3 "):
        train(
            FakeStep([1.0] * 3 + [50.0]),
            iter(rows),
            plan,
            ("x",),
            lambda r: False,
            faults=FaultHandling(is_spike=lambda loss: loss > 10),
        )


def test_a_run_goes_on_where_it_stopped():
    """Step numbers, dropout counters and the size of the last step, from the middle of a plan of 7 micro-batches."""
    step, records = FakeStep([1.0] * 7), []

    def keep(record):
        records.append(record)
        return False

    plan = Plan(micro_batches_per_epoch=4, accumulate=2, total_micro_batches=7)
    rows = iter([batch((i,)) for i in range(4, 7)])
    assert train(step, rows, plan, ("x",), keep, done=Position(step=2, micro_batches=4)) == 4
    assert [r["step"] for r in records] == [3, 4] and [call[2] for call in step.calls] == [4, 5, 6]
    assert plan.after(Position(step=3, micro_batches=6)) == Position(step=4, micro_batches=7)
    assert train(step, rows, plan, ("x",), keep, done=Position(step=4, micro_batches=7)) == 4 and len(records) == 2
