"""Ranks' shares: together they are the batch of one rank, whatever the number of ranks; and what a rank knows of the whole batch."""

import numpy as np
import pytest

from petrun.data.batches.buckets import plan_batches
from petrun.data.batches.collate import TOKEN_INPUTS, collate
from petrun.data.batches.rank_share import WHOLE_BATCH, RankPlan, RankShare, count_rows, read_rank_batches
from petrun.data.examples.example_set import IGNORED, ExampleSet

RNG = np.random.default_rng(5)
INPUTS = ("input_ids", "segment_ids", "position_ids")


def rows_of(n, *, decoder=True, holes=False):
    """n rows of 1 to 20 tokens, some not scored, maybe with padding inside."""
    lengths = RNG.integers(1, 21, n)
    size = int(lengths.sum())
    flat = {"input_ids": RNG.integers(1, 99, size).astype(np.int32)}
    if decoder:
        flat["labels"] = np.where(RNG.random(size) < 0.4, IGNORED, flat["input_ids"]).astype(np.int32)
    if holes:
        flat["mask"] = (RNG.random(size) < 0.7).astype(np.int32)
    label = np.where(RNG.random(n) < 0.3, IGNORED, 1).astype(np.int32)
    return ExampleSet(
        task="lm" if decoder else "classify",
        kind="tokens",
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        flat=flat,
        per_row={"row": np.arange(n, dtype=np.int32) + 100, "label": label, "prompt_length": np.zeros(n, np.int32)},
    )


def arrays_of(n):
    per_row = {"row": np.arange(n, dtype=np.int32), "label": RNG.integers(-1, 3, n).astype(np.int32)}
    x = RNG.normal(size=(n, 3)).astype(np.float32)
    return ExampleSet(
        task="classify", kind="arrays", offsets=np.zeros(n + 1, np.int64), flat={}, per_row=per_row, arrays={"x": x}
    )


@pytest.mark.parametrize(
    "options", [{}, {"order": "file"}, {"pack": True}, {"pack": True, "order": "file"}, {"arrays": True}]
)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7, 16])
def test_shares_are_the_batches_of_one_rank(ranks, options):
    for n in (1, 2, 5, 31, 64, 65):
        for size in (1, 2, 5):
            lengths = np.random.default_rng(n).integers(1, 21, n)
            batching = plan_batches(lengths, batch_size=size * ranks, seq_len=24, seed=n, **options)
            for epoch in (0, 1):
                plan = batching.epoch(epoch)
                shares = [RankPlan(plan, RankShare(index=r, parts=ranks)) for r in range(ranks)]
                read = []
                for k in range(len(plan)):
                    whole = plan[k]
                    held = [(share.share.bounds(len(whole.units)), share[k]) for share in shares]
                    edges = [first for (first, _), _ in held] + [len(whole.units)]
                    assert edges == [0, *(stop for (_, stop), _ in held)], "neighbours, no gap"
                    own = [spec.units if stop > first else () for (first, stop), spec in held]
                    assert sum(own, ()) == whole.units, "in the order of the one rank"
                    counts = [len(units) for units in own]
                    assert max(counts) - min(counts) <= 1 and max(counts) <= size
                    assert {spec.length for _, spec in held} == {whole.length}, "as long as the whole batch's longest"
                    assert all(len(spec.units) >= 1 for _, spec in held), "a rank without rows feeds something"
                    read += [row for units in own for unit in units for row in unit]
                assert sorted(read) == list(range(n)), "every row once an epoch"


def test_the_number_of_ranks_changes_no_batch():
    """8 rows on one rank, 4 on each of 2, 1 on each of 8: the plan is the same."""
    lengths = RNG.integers(1, 21, 100)
    plans = [
        plan_batches(lengths, batch_size=size * ranks, seq_len=24).epoch(2) for ranks, size in ((1, 8), (2, 4), (8, 1))
    ]
    for plan in plans[1:]:
        assert [plan[k] for k in range(len(plan))] == [plans[0][k] for k in range(len(plan))]


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize(("decoder", "pack"), [(True, False), (True, True), (False, False)])
def test_counts_are_those_of_the_collated_batch(decoder, pack, holes):
    examples = rows_of(120, decoder=decoder, holes=holes)
    counts = count_rows(examples)
    plan = plan_batches(examples.lengths, batch_size=7, seq_len=40, pack=pack).epoch(0)
    found = []
    for k in range(len(plan)):
        batch = collate(examples, plan[k], TOKEN_INPUTS)
        assert counts.of(plan[k]) == (batch.scored, batch.tokens)
        found.append(counts.of(plan[k]))
    assert len(set(found)) > 4 and sum(scored for scored, _ in found) > 20


def test_array_data_counts_rows():
    examples = arrays_of(10)
    plan = plan_batches(examples.lengths, batch_size=4, seq_len=1, arrays=True).epoch(0)
    for k in range(len(plan)):
        batch = collate(examples, plan[k], ())
        assert count_rows(examples).of(plan[k]) == (batch.scored, batch.tokens)


@pytest.mark.parametrize(
    "examples", [rows_of(9), rows_of(9, decoder=False), arrays_of(9)], ids=["decoder", "classes", "arrays"]
)
def test_parts_feed_the_batch_and_a_rank_without_rows_one_to_ignore(examples):
    ranks = 4
    inputs = () if examples.is_arrays else INPUTS
    batching = plan_batches(examples.lengths, batch_size=ranks * 2, seq_len=24, arrays=examples.is_arrays)
    counts, plan = count_rows(examples), batching.epoch(0)
    by_rank = [
        list(read_rank_batches(examples, plan, RankShare(index=r, parts=ranks), counts, inputs)) for r in range(ranks)
    ]
    assert [len(found) for found in by_rank] == [2] * ranks
    for k in range(2):
        whole = collate(examples, plan[k], inputs)
        held = [found[k] for found in by_rank]
        fed = [part for part in held if part.batch.rows]
        assert len(fed) == (ranks if len(plan[k].units) > 1 else 1)
        for name, array in whole.inputs.items():
            np.testing.assert_array_equal(np.concatenate([part.batch.inputs[name] for part in fed]), array)
        np.testing.assert_array_equal(np.concatenate([part.batch.targets for part in fed]), whole.targets)
        for part in held:
            assert (part.rows, part.scored) == (whole.rows, whole.scored)
            assert part.mapping["first"] == part.first and part.tokens == counts.of(plan[k])[1]
            if not part.batch.rows:
                assert (part.batch.targets == IGNORED).all() and part.batch.shape == (1, *whole.shape[1:])
                for name, array in whole.inputs.items():
                    np.testing.assert_array_equal(part.batch.inputs[name], array[:1])
        starts = [part.first for part in fed]
        assert starts == np.cumsum([0, *(len(part.batch.targets) for part in fed)])[:-1].tolist()


def test_a_run_may_begin_in_the_middle_of_an_epoch():
    examples = rows_of(20)
    plan = plan_batches(examples.lengths, batch_size=4, seq_len=24).epoch(1)
    counts = count_rows(examples)
    every = list(read_rank_batches(examples, plan, RankShare(index=1, parts=2), counts, INPUTS))
    later = list(read_rank_batches(examples, plan, RankShare(index=1, parts=2), counts, INPUTS, start=3))
    assert [part.rows for part in later] == [part.rows for part in every[3:]] and len(later) == 2
    alone = list(read_rank_batches(examples, plan, WHOLE_BATCH, counts, INPUTS))
    assert [part.batch.rows for part in alone] == [part.rows for part in every]
