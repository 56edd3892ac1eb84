"""Yield batches through mindspore.dataset: a worker thread collates them in advance while the net computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import mindspore.dataset as ds
import numpy as np

from petrun.data.batches.buckets import BatchSpec
from petrun.data.batches.collate import Batch, collate
from petrun.data.examples.example_set import ExampleSet
from petrun.data.formats.records import Array

_TARGETS, _ROWS = "targets", "rows"


class Specs(Protocol):
    """Batch specs in their order: a BatchPlan, or a rank's share of one."""

    def __len__(self) -> int: ...

    def __getitem__(self, k: int) -> BatchSpec: ...


class _Batches:
    """A random-access source: item k is batch `start + k`."""

    def __init__(self, examples: ExampleSet, plan: Specs, inputs: Sequence[str], pad_id: int, start: int) -> None:
        self._examples, self._plan, self._start = examples, plan, start
        self._inputs, self._pad_id = tuple(inputs), pad_id

    def __len__(self) -> int:
        return len(self._plan) - self._start

    def __getitem__(self, k: int) -> tuple[Array, ...]:
        batch = collate(self._examples, self._plan[self._start + int(k)], self._inputs, self._pad_id)
        return (
            *(np.ascontiguousarray(array) for array in batch.inputs.values()),
            batch.targets,
            np.array(batch.rows, np.int64),
        )


def batch_dataset(
    examples: ExampleSet, plan: Specs, inputs: Sequence[str], *, pad_id: int = 0, start: int = 0
) -> tuple[Any, tuple[str, ...]]:
    """Return (dataset with one batch per item, its columns: inputs in order, targets, rows). The order is the plan's."""
    names = tuple(collate(examples, plan[start], inputs, pad_id).inputs)
    columns = (*names, _TARGETS, _ROWS)
    source = _Batches(examples, plan, inputs, pad_id, start)
    # One thread keeps batches in order; the tokens are in memory, so collating is much faster than a step.
    dataset: Any = ds.GeneratorDataset(
        source, list(columns), shuffle=False, num_parallel_workers=1, python_multiprocessing=False
    )
    return dataset, columns


def batches(
    examples: ExampleSet, plan: Specs, inputs: Sequence[str], *, pad_id: int = 0, start: int = 0
) -> Iterator[Batch]:
    """Yield the plan's batches from `start` on as numpy arrays, made in advance."""
    if start >= len(plan):
        return
    dataset, columns = batch_dataset(examples, plan, inputs, pad_id=pad_id, start=start)
    for item in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True, do_copy=False):
        named = dict(zip(columns, item, strict=True))
        rows = tuple(int(row) for row in named.pop(_ROWS))
        targets = named.pop(_TARGETS)
        yield Batch(named, targets, rows)
