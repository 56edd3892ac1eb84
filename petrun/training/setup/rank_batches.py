"""What a rank feeds its training step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mindspore as ms
from mindspore import Tensor

from petrun.data.batches.rank_share import WHOLE, Share
from petrun.inference.rows import endless
from petrun.train.loop import as_tensors
from petrun.training.setup.training_setup import TrainingSetup


def rows_of(ready: TrainingSetup, rank: int, start: int = 0) -> Iterator[dict[str, Any]]:
    """What the rank feeds its step, from micro-batch `start` of the run on: its share of every batch. A step whose operators are split
    is fed the whole batch on every rank, and always as many rows: its graph takes the rows of this rank.
    """
    loaded, layout = ready.assembled.loaded, ready.layout
    share = WHOLE if layout.split else Share(index=layout.coordinates(rank)[1], parts=layout.dp)
    full = ready.batching.batch_size if layout.split else 0
    return endless(ready.sources.train, ready.batching, loaded.inputs, loaded.pad_token_id, share, start, full)


def first_inputs(ready: TrainingSetup) -> tuple[Any, ...]:
    """What a step whose operators are split is called with, of its first batch: the update flag, the denominator, targets, inputs."""
    ready.assembled.loaded.net.set_train(True)
    targets, arrays = as_tensors(next(rows_of(ready, 0)), ready.assembled.loaded.inputs)
    return True, Tensor(1.0, ms.float32), targets, *arrays
