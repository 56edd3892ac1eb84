"""Few shapes, little padding, and an order that is a pure function of (seed, epoch)."""

import itertools

import numpy as np
import pytest

from petrun.data.batches.buckets import plan_batches, plan_shapes
from petrun.errors import ConfigError


@pytest.fixture(scope="module")
def lengths():
    return np.clip(np.random.default_rng(1).lognormal(3.0, 0.6, 1003).astype(int), 2, 100)


def padded(lengths, shapes):
    return sum(next(size for size in shapes if size >= length) - length for length in lengths)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shapes_pad_least_of_all_choices(lengths, count):
    shapes = plan_shapes(lengths, count, 100)
    assert len(shapes) == count
    # The largest bucket ends at seq_len; every other is a multiple of 8.
    assert shapes[-1] == 100
    assert all(size % 8 == 0 for size in shapes[:-1])
    choices = itertools.combinations(range(8, 100, 8), count - 1)
    assert padded(lengths, shapes) == min(padded(lengths, (*choice, 100)) for choice in choices)


@pytest.mark.parametrize(
    ("lengths", "count", "seq_len", "shapes"),
    [
        ([5], 4, 64, (8,)),
        ([8, 9], 4, 64, (8, 16)),
        ([60, 61], 4, 62, (62,)),
        ([64, 10], 1, 64, (64,)),
        ([1] * 100 + [500], 2, 512, (8, 504)),
    ],
)
def test_small_cases(lengths, count, seq_len, shapes):
    assert plan_shapes(lengths, count, seq_len) == shapes


def rows_of(plan):
    return [row for k in range(len(plan)) for row in plan[k].rows]


def test_a_shuffled_epoch_has_every_row_once(lengths):
    batching = plan_batches(lengths, batch_size=16, seq_len=100, seed=3)
    for epoch in range(3):
        plan = batching.epoch(epoch)
        assert len(plan) == batching.batches_per_epoch == 63
        assert sorted(rows_of(plan)) == list(range(1003))
        for k in range(len(plan)):
            spec = plan[k]
            assert lengths[list(spec.rows)].max() <= spec.length
            assert spec.length in batching.buckets
            assert spec.shape == plan.shapes[k]


def test_the_order_is_a_pure_function_of_seed_and_epoch(lengths):
    def order(seed, epoch):
        return rows_of(plan_batches(lengths, batch_size=16, seq_len=100, seed=seed).epoch(epoch))

    assert order(3, 1) == order(3, 1)
    assert order(3, 1) != order(3, 2)
    assert order(3, 1) != order(4, 1)


def test_any_batch_is_computed_without_those_before_it(lengths):
    plan = plan_batches(lengths, batch_size=16, seq_len=100, seed=3).epoch(5)
    forward = [plan[k] for k in range(len(plan))]
    again = plan_batches(lengths, batch_size=16, seq_len=100, seed=3).epoch(5)
    assert [again[k] for k in reversed(range(len(again)))] == forward[::-1]
    with pytest.raises(IndexError):
        plan[len(plan)]


def test_padding_is_small_and_shapes_are_few(lengths):
    plain = plan_batches(lengths, batch_size=16, seq_len=100, buckets=4, order="file")
    four, eight = (plan_batches(lengths, batch_size=16, seq_len=100, buckets=n) for n in (4, 8))
    assert plain.padding() > 0.5 > 0.32 > four.padding()
    assert eight.padding() < 0.2
    assert sum(size * length for size, length in four.epoch(0).shapes) * (1 - four.padding()) == pytest.approx(
        lengths.sum()
    )
    # Four lengths, and one shape for the batch of 1003 mod 16 rows.
    shapes = four.shapes(epochs=20)
    assert len(shapes) == 5
    assert [shape for shape in shapes if shape[0] != 16] == [(11, 16)]


def test_length_does_not_decide_when_a_row_comes(lengths):
    """Batches of similar length, but in random order: short rows are not learnt before long ones."""
    plan = plan_batches(np.sort(lengths), batch_size=8, seq_len=100).epoch(0)
    sizes = np.array([plan[k].length for k in range(len(plan))], float)
    assert abs(np.corrcoef(np.arange(len(sizes)), sizes)[0, 1]) < 0.25


def test_without_shuffling_batch_k_is_rows_kb_to_kb_plus_b(lengths):
    batching = plan_batches(lengths, batch_size=16, seq_len=100, order="file")
    for epoch in (0, 4):
        plan = batching.epoch(epoch)
        for k in range(len(plan)):
            assert plan[k].rows == tuple(range(k * 16, min(k * 16 + 16, 1003)))
            longest = lengths[k * 16 : k * 16 + 16].max()
            assert plan[k].length == next(size for size in batching.buckets if size >= longest)
    assert plan[62].shape[0] == 11
    assert batching.shapes(epochs=9) == tuple(sorted(set(plan.shapes)))


def test_evaluation_takes_the_longest_first(lengths):
    plan = plan_batches(lengths, batch_size=16, seq_len=100, order="length").epoch(0)
    rows = rows_of(plan)
    assert sorted(rows) == list(range(1003))
    assert (np.diff(lengths[rows]) <= 0).all()
    assert len(set(plan.shapes)) <= 5


@pytest.mark.parametrize("rows", [1, 15, 16, 17])
def test_few_rows(rows):
    batching = plan_batches([9] * rows, batch_size=16, seq_len=64)
    assert sorted(rows_of(batching.epoch(0))) == list(range(rows))
    assert batching.batches_per_epoch == -(-rows // 16)


def test_array_data_has_no_length():
    batching = plan_batches([1] * 10, batch_size=4, seq_len=1, arrays=True)
    assert sorted(batching.shapes()) == [(2, 0), (4, 0)]
    assert sorted(rows_of(batching.epoch(1))) == list(range(10))
    with pytest.raises(ConfigError, match="array data has no sequences"):
        plan_batches([1] * 10, batch_size=4, seq_len=1, arrays=True, pack=True)


def test_packed_sequences_are_shuffled_as_wholes(lengths):
    batching = plan_batches(lengths, batch_size=4, seq_len=128, pack=True)
    assert batching.buckets == (128,)
    assert batching.padding() < 0.05
    first, second = batching.epoch(0), batching.epoch(1)
    assert sorted(rows_of(first)) == sorted(rows_of(second)) == list(range(1003))
    assert rows_of(first) != rows_of(second)
    in_order = plan_batches(lengths, batch_size=4, seq_len=128, pack=True, order="file")
    assert rows_of(in_order.epoch(0)) == list(range(1003))
