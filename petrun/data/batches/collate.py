"""Collate rows into the arrays that a net's construct takes.

Letters: B sequences, T tokens, t tokens of one row.

Decoders:
    input_ids     (B, T) int32, padded on the right with the tokenizer's pad token
    segment_ids   (B, T) int32: 0 padding, 1.. the row within the sequence; attention stays within one segment
    position_ids  (B, T) int32: restart at 0 with every segment; cumsum(mask) - 1, at least 0, where the data itself holds padding
    targets       (B, T) int32, SHIFTED: logits[:, t] are scored against targets[:, t] = labels[:, t + 1]; -100 = not scored. The
                  last token of a segment and padding are not scored, so no prediction crosses from one row into another
Classifiers: input_ids, segment_ids, token_type_ids (B, T) int32; targets (B,) int32 class indices, -100 where there is no label; or
float32 numbers to predict, NaN where there is none.
Encoder-decoders: input_ids, segment_ids (B, S) of the sources; decoder_input_ids (B, T) int32, the start token and the target without its
    last token, padded with the pad token; targets (B, T) int32, the target: logits[:, t] are scored against targets[:, t]
Rows of TOKENS: inputs as classifiers; targets (B, T) int32, the class of each token, NOT shifted, -100 = not scored.
Array data: its arrays (B, ...); targets (B,) as for classifiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from petrun.data.batches.buckets import BatchSpec
from petrun.data.examples.example_set import BASE_LOG_PROBS, DESIRABLE, IGNORED, Example, ExampleSet
from petrun.data.formats.records import Array
from petrun.data.tasks import TOKENS
from petrun.errors import DataError
from petrun.tensors.targets import is_scored, unscored

TOKEN_INPUTS = ("input_ids", "segment_ids", "position_ids", "token_type_ids", "attention_mask")


@dataclass(frozen=True)
class Batch:
    """`inputs` in the order of the net's construct; `rows` are the data's row numbers, sequence by sequence."""

    inputs: dict[str, Array]
    targets: Array
    rows: tuple[int, ...]

    @property
    def arrays(self) -> dict[str, Array]:
        """Return the inputs, then the targets."""
        return {**self.inputs, "targets": self.targets}

    @property
    def shape(self) -> tuple[int, ...]:
        first = next(iter(self.inputs.values()))
        return tuple(first.shape)

    @property
    def scored(self) -> int:
        """Count the scored targets: tokens for decoders, rows for classifiers."""
        return int(is_scored(self.targets).sum())

    @property
    def tokens(self) -> int:
        """Count the tokens that are not padding; rows for array data."""
        segments = self.inputs.get("segment_ids")
        return int((segments != 0).sum()) if segments is not None else len(self.targets)


def collate(examples: ExampleSet, spec: BatchSpec, inputs: Sequence[str], pad_id: int = 0) -> Batch:
    """Collate one batch.

    Inputs: `inputs`, the names that the net takes, in order; for array data () takes all arrays.
    Raises: DataError when the data has no such input.
    """
    rows = tuple(int(examples.per_row["row"][i]) for i in spec.rows)
    if examples.is_arrays:
        chosen = np.array(spec.rows, np.int64)
        names = tuple(inputs) or tuple(examples.arrays)
        missing = [name for name in names if name not in examples.arrays]
        if missing:
            raise DataError(
                f"{examples.files[0]}: no array '{missing[0]}', which the model takes",
                hint=f"Arrays found: {', '.join(examples.arrays)}",
            )
        return Batch({name: examples.arrays[name][chosen] for name in names}, examples.per_row["label"][chosen], rows)
    if examples.encoder_decoder:
        return _source_batch(examples, spec, rows, pad_id)
    unknown = [name for name in inputs if name not in (*TOKEN_INPUTS, BASE_LOG_PROBS, DESIRABLE)]
    if unknown:
        raise DataError(
            f"the model takes the input '{unknown[0]}', which tokenised rows do not have",
            hint=f"Inputs: {', '.join(TOKEN_INPUTS)}",
        )
    count, length = len(spec.units), spec.length
    arrays: dict[str, Array] = {name: np.zeros((count, length), np.int32) for name in TOKEN_INPUTS}
    arrays["input_ids"].fill(pad_id)
    decoder = "labels" in examples.flat
    kind = np.dtype(np.int32) if decoder else examples.per_row["label"].dtype
    targets = np.full((count, length) if decoder else count, unscored(kind), kind)
    for b, unit in enumerate(spec.units):
        at = 0
        for number, index in enumerate(unit, 1):
            example = examples[index]
            if len(unit) > 1:
                example = _without_padding(example)
            part = slice(at, at + len(example.input_ids))
            _place(arrays, b, part, example, number)
            if examples.task == TOKENS:
                assert example.labels is not None
                targets[b, part] = np.where(example.mask > 0, example.labels, IGNORED)
            elif decoder:
                targets[b, part] = shifted(example)
            else:
                targets[b] = example.label
            at = part.stop
    arrays["attention_mask"] = (arrays["segment_ids"] != 0).astype(np.int32)
    if BASE_LOG_PROBS in inputs:
        arrays[BASE_LOG_PROBS] = examples.per_row[BASE_LOG_PROBS][list(spec.rows)].astype(np.float32)
    if DESIRABLE in inputs:
        arrays[DESIRABLE] = examples.per_row["label"][list(spec.rows)]
    return Batch({name: arrays[name] for name in (inputs or TOKEN_INPUTS[:3])}, targets, rows)


def _source_batch(examples: ExampleSet, spec: BatchSpec, rows: tuple[int, ...], pad_id: int) -> Batch:
    count = len(spec.units)
    ids, segments = np.full((count, spec.length), pad_id, np.int32), np.zeros((count, spec.length), np.int32)
    before = np.full((count, spec.target_length), pad_id, np.int32)
    targets = np.full((count, spec.target_length), IGNORED, np.int32)
    for b, (index,) in enumerate(spec.units):
        example = examples[index]
        source = example.mask == 1
        tokens = int(source.sum())
        ids[b, :tokens], segments[b, :tokens] = example.input_ids[source], 1
        last = len(example.input_ids) - tokens - 1
        before[b, :last] = example.input_ids[tokens:-1]
        targets[b, :last] = shifted(example)[tokens:-1]
    return Batch({"input_ids": ids, "segment_ids": segments, "decoder_input_ids": before}, targets, rows)


def _place(arrays: dict[str, Array], b: int, part: slice, example: Example, number: int) -> None:
    arrays["input_ids"][b, part] = example.input_ids
    arrays["segment_ids"][b, part] = example.mask * number
    arrays["position_ids"][b, part] = positions(example.mask)
    arrays["token_type_ids"][b, part] = example.token_type_ids


def positions(mask: Array) -> Array:
    """Return the position of every token of a mask (..., t) as Example has it, counting from 0 in each sequence, without padding."""
    found = np.maximum(np.cumsum(mask > 0, axis=-1) - 1, 0)
    before = np.count_nonzero(mask == 1, axis=-1, keepdims=True)
    return np.where(mask == 2, found - before, found).astype(np.int32)


def shifted(example: Example) -> Array:
    """Return the targets (t,) int32: the target of position t is the label of t + 1; -100 at the end and where either is padding."""
    assert example.labels is not None
    targets = np.full(len(example.labels), IGNORED, np.int32)
    scored = (example.mask[1:] > 0) & (example.mask[:-1] == example.mask[1:])
    targets[:-1] = np.where(scored, example.labels[1:], IGNORED)
    return targets


def _without_padding(example: Example) -> Example:
    if example.mask.all():
        return example
    kept = example.mask == 1
    labels = None if example.labels is None else example.labels[kept]
    return Example(
        row=example.row,
        input_ids=example.input_ids[kept],
        mask=example.mask[kept],
        labels=labels,
        label=example.label,
        token_type_ids=example.token_type_ids[kept],
        prompt_length=example.prompt_length,
        reference=example.reference,
    )


def prompt_batch(
    examples: ExampleSet, indices: Sequence[int], pad_id: int = 0, length: int | None = None
) -> dict[str, Array]:
    """Collate prompts for generation: input_ids, segment_ids, position_ids (B, T) int32, padded on the LEFT so that all end together.

    Inputs: `length` T; default: the longest prompt.
    """
    rows = [examples[i].input_ids for i in indices]
    width = max((len(row) for row in rows), default=0) if length is None else length
    ids = np.full((len(rows), width), pad_id, np.int32)
    segments = np.zeros((len(rows), width), np.int32)
    for b, row in enumerate(rows):
        ids[b, width - len(row) :] = row
        segments[b, width - len(row) :] = 1
    return {"input_ids": ids, "segment_ids": segments, "position_ids": positions(segments)}
