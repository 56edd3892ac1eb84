"""Reads the batches of a rank for its training step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mindspore as ms
from mindspore import Tensor

from petrun.data.batches.rank_share import WHOLE_BATCH, RankShare
from petrun.evaluate.score import Batch
from petrun.inference.rows import training_batches
from petrun.train.loop import as_tensors
from petrun.training.setup.training_setup import TrainingSetup


def rank_batches(setup: TrainingSetup, rank: int, start: int = 0) -> Iterator[Batch]:
    """Yield the rank's share of every batch, from micro-batch `start` of the run on.

    A step whose operators are split gets the full batch on every rank, and always as many rows: its graph takes the rows of the rank.
    """
    loaded, layout = setup.assembled.loaded, setup.layout
    share = WHOLE_BATCH if layout.split else RankShare(index=layout.coordinates(rank)[1], parts=layout.dp)
    full = setup.batching.batch_size if layout.split else 0
    return training_batches(setup.sources.train, setup.batching, loaded.inputs, loaded.pad_token_id, share, start, full)


def first_batch_inputs(setup: TrainingSetup) -> tuple[Any, ...]:
    """Return what a step whose operators are split is called with for its first batch: update flag, denominator, targets, inputs."""
    setup.assembled.loaded.net.set_train(True)
    targets, arrays = as_tensors(next(rank_batches(setup, 0)), setup.assembled.loaded.inputs)
    return True, Tensor(1.0, ms.float32), targets, *arrays
