"""Reads the batches of a rank for its training step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from petrun.data.batches.buckets import Batching
from petrun.data.batches.rank_share import WHOLE_BATCH, RankShare, count_rows, read_rank_batches
from petrun.data.examples.example_set import ExampleSet
from petrun.evaluate.score import Batch, filled
from petrun.tensors.targets import unscored
from petrun.train.loop import as_tensors
from petrun.training.setup.training_setup import TrainingSetup


def rank_batches(setup: TrainingSetup, rank: int, start: int = 0) -> Iterator[Batch]:
    """Yield the rank's share of every batch, from micro-batch `start` of the run on.

    A step whose operators are split gets the full batch on every rank, and always as many rows: its graph takes the rows of the rank.
    """
    loaded, layout = setup.assembled.loaded, setup.resolved.layout
    share = WHOLE_BATCH if layout.split else RankShare(index=layout.coordinates(rank)[1], parts=layout.dp)
    full = setup.resolved.batching.batch_size if layout.split else 0
    return training_batches(
        setup.resolved.sources.train, setup.resolved.batching, setup.inputs, loaded.pad_token_id, share, start, full
    )


def first_batch_inputs(setup: TrainingSetup) -> tuple[Any, ...]:
    """Return what a step whose operators are split is called with for its first batch: update flag, denominator, targets, inputs."""
    setup.assembled.loaded.net.set_train(True)
    targets, arrays = as_tensors(next(rank_batches(setup, 0)), setup.inputs)
    return True, Tensor(1.0, ms.float32), targets, *arrays


def training_batches(
    examples: ExampleSet,
    batching: Batching,
    inputs: tuple[str, ...],
    pad_id: int,
    share: RankShare = WHOLE_BATCH,
    start: int = 0,
    full: int = 0,
) -> Iterator[Batch]:
    """Yield a rank's share of epoch after epoch without end, from batch `start` of the run. (seed, epoch) gives an epoch's order.

    `full`: rows that each batch must have, where the graph splits it; a smaller one is padded with rows that count for nothing.
    """
    counts = count_rows(examples)
    first, skipped = divmod(start, batching.batches_per_epoch)
    for epoch in count(first):
        begin = skipped if epoch == first else 0
        for part in read_rank_batches(
            examples, batching.epoch(epoch), share, counts, inputs, pad_id=pad_id, start=begin
        ):
            yield pad_rows(part.mapping, full)


def pad_rows(batch: Batch, full: int) -> Batch:
    """Pad a batch to `full` rows with copies of its last row, whose targets are ignored."""
    rows = len(batch["targets"])
    if rows >= full:
        return batch
    padded = {name: filled(array, full) for name, array in batch.items() if isinstance(array, np.ndarray)}
    padded["targets"][rows:] = unscored(padded["targets"].dtype)
    return {**batch, **padded}
