"""Make the batches of a computing rehearsal: of the run's own rows, or of random tokens where they are not here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count

import numpy as np

from petrun.data.batches.buckets import Batching, BatchSpec
from petrun.data.batches.collate import collate
from petrun.data.examples.example_set import STREAM, ExampleSet
from petrun.data.tasks import TOKENS
from petrun.rehearsal.shapes import BatchShapes
from petrun.tensors import Array
from petrun.tensors.targets import IGNORED, unscored
from petrun.training.setup.rank_batches import pad_rows

Batch = Mapping[str, Array]
"""The whole batch of all ranks: the net's inputs by name, and "targets"."""


def draw_rows(shapes: BatchShapes, vocab: int, number: int, seed: int) -> ExampleSet:
    """Draw `number` rows of different lengths, at most `shapes.tokens`, with some targets that are not scored."""
    random = np.random.default_rng(seed)
    longest = shapes.tokens
    lengths = _drawn_lengths(random, longest, number)
    sources = np.zeros_like(lengths)
    if shapes.target_tokens:
        # A source, the token that begins its target, and the target.
        sources, lengths = lengths, lengths + 1 + _drawn_lengths(random, shapes.target_tokens, number)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = random.integers(1, vocab, offsets[-1]).astype(np.int32)
    flat = {"input_ids": ids}
    rows = np.arange(number, dtype=np.int32)
    label: Array
    if shapes.task == "classify":
        classes = shapes.classes or 2
        drawn = random.integers(0, classes, number) if classes > 1 else random.normal(size=number)
        label = drawn.astype(np.int32 if classes > 1 else np.float32)
        label[-1] = unscored(label.dtype)
    elif shapes.task == TOKENS:
        tags = random.integers(0, shapes.classes or 2, offsets[-1])
        flat["labels"] = np.where(random.random(offsets[-1]) < 0.2, IGNORED, tags).astype(np.int32)
        label = np.full(number, IGNORED, np.int32)
    else:
        flat["labels"] = np.where(random.random(offsets[-1]) < 0.2, IGNORED, ids).astype(np.int32)
        label = np.full(number, IGNORED, np.int32)
    per_row = {
        "row": rows,
        "label": label,
        "prompt_length": sources.astype(np.int32),
        "file": np.zeros_like(rows),
        "line": rows,
    }
    if shapes.target_tokens:
        flat["mask"] = np.where(np.arange(offsets[-1]) < np.repeat(offsets[:-1] + sources, lengths), 1, 2).astype(
            np.int32
        )
    return ExampleSet(
        task=shapes.task,
        kind=STREAM,
        offsets=offsets,
        flat=flat,
        per_row=per_row,
        num_labels=shapes.classes,
        encoder_decoder=shapes.target_tokens > 0,
    )


def _drawn_lengths(random: np.random.Generator, longest: int, number: int) -> Array:
    found = random.integers(max(2, longest // 2), longest + 1, number)
    # One row fills its batch, and every other is padded.
    found[0] = longest
    return found


def drawn_batches(rows: ExampleSet, size: int) -> Iterator[BatchSpec]:
    """Yield batches of `size` neighbouring rows."""
    for first in range(0, len(rows) - size + 1, size):
        yield BatchSpec(tuple((row,) for row in range(first, first + size)), 0)


def batches_of_run(batching: Batching) -> Iterator[BatchSpec]:
    """Yield the batches of epoch after epoch, without end."""
    for epoch in count():
        plan = batching.epoch(epoch)
        yield from (plan[k] for k in range(len(plan)))


def whole_batch(
    rows: ExampleSet, spec: BatchSpec, shapes: BatchShapes, size: int, inputs: Sequence[str], pad_id: int
) -> Batch:
    """Return one batch of all ranks in the shape that was compiled: rows padded to the job's length, batches to `size` rows."""
    found = collate(rows, BatchSpec(spec.units, shapes.tokens, target_length=shapes.target_tokens), inputs, pad_id)
    return pad_rows(found.arrays, size)
