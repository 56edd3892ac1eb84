"""Draw the rows that a computing rehearsal trains on, where it has no data: random tokens in the shapes of the job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from petrun.data.batches.buckets import BatchSpec
from petrun.data.batches.collate import collate
from petrun.data.examples.example_set import STREAM, ExampleSet
from petrun.rehearsal.shapes import BatchShapes
from petrun.tensors import Array
from petrun.tensors.targets import IGNORED, unscored

Batch = Mapping[str, Array]
"""The whole batch of all ranks: the net's inputs by name, and "targets"."""


def draw_rows(shapes: BatchShapes, vocab: int, count: int, seed: int) -> ExampleSet:
    """Draw `count` rows of different lengths, at most `shapes.tokens`, with some targets that are not scored."""
    random = np.random.default_rng(seed)
    longest = shapes.tokens
    lengths = random.integers(max(2, longest // 2), longest + 1, count)
    # One row fills its batch, and every other is padded.
    lengths[0] = longest
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = random.integers(1, vocab, offsets[-1]).astype(np.int32)
    flat = {"input_ids": ids}
    rows = np.arange(count, dtype=np.int32)
    label: Array
    if shapes.task == "classify":
        classes = shapes.classes or 2
        drawn = random.integers(0, classes, count) if classes > 1 else random.normal(size=count)
        label = drawn.astype(np.int32 if classes > 1 else np.float32)
        label[-1] = unscored(label.dtype)
    else:
        flat["labels"] = np.where(random.random(offsets[-1]) < 0.2, IGNORED, ids).astype(np.int32)
        label = np.full(count, IGNORED, np.int32)
    per_row = {
        "row": rows,
        "label": label,
        "prompt_length": np.zeros_like(rows),
        "file": np.zeros_like(rows),
        "line": rows,
    }
    return ExampleSet(
        task=shapes.task, kind=STREAM, offsets=offsets, flat=flat, per_row=per_row, num_labels=shapes.classes
    )


def whole_batches(
    rows: ExampleSet, shapes: BatchShapes, size: int, count: int, inputs: Sequence[str], pad_id: int
) -> list[Batch]:
    """Return `count` batches of `size` neighbouring rows, padded to the job's length."""
    return [
        collate(
            rows,
            BatchSpec(tuple((row,) for row in range(size * k, size * (k + 1))), shapes.tokens),
            inputs,
            pad_id,
        ).arrays
        for k in range(count)
    ]
