"""Set beside each row with one answer a mismatched one: its prompt with the answer of another row.

Letters: n rows, S tokens of all rows together.

KTO compares each answer with what answers that belong to other prompts gained (petrun/train/unpaired.py). The other row is fixed by the
files, not by the order of training: what the base says of it is computed once, and a resumed run has the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from petrun.data.examples.example_set import IGNORED, ExampleSet
from petrun.data.formats.records import Array
from petrun.errors import DataError


def with_mismatched_answers(examples: ExampleSet, desirable: Array, limit: int) -> ExampleSet:
    """Return the rows as two sequences each, prompt and own answer (mask 1), prompt and another row's answer (mask 2).

    The other row is the one before, the last one for the first row, as trl turns the answers of a batch by one; rows with the same prompt
    are passed over, whose answers would match.
    Inputs: `examples`, one sequence a row; `desirable` (n,) bool, becomes the label, 1 or 0; `limit`, most tokens of a sequence.
    Raises: DataError where all rows are desirable or none is, and where all have one prompt.
    """
    files = ", ".join(examples.files)
    if desirable.all() or not desirable.any():
        raise DataError(
            f"{files}: the label of every row is {str(bool(desirable[0])).lower()}",
            hint="KTO learns from the difference: give rows with true and rows with false.",
        )
    rows = [examples[i] for i in range(len(examples))]
    prompts = [row.input_ids[: row.prompt_length].tobytes() for row in rows]
    ids, labels, masks, lengths = [], [], [], np.zeros(len(rows), np.int64)
    for i, j in enumerate(_others(prompts, files)):
        mine, other = rows[i], rows[j]
        assert mine.labels is not None and other.labels is not None, "rows with an answer have labels"
        before = np.full(mine.prompt_length, IGNORED, np.int32)
        mismatched = np.concatenate([mine.input_ids[: mine.prompt_length], other.input_ids[other.prompt_length :]])[
            :limit
        ]
        ids += [mine.input_ids, mismatched]
        labels += [mine.labels, np.concatenate([before, other.labels[other.prompt_length :]])[:limit]]
        masks += [np.full(len(mine.input_ids), 1, np.int32), np.full(len(mismatched), 2, np.int32)]
        lengths[i] = len(mine.input_ids) + len(mismatched)
    return replace(
        examples,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        flat={"input_ids": np.concatenate(ids), "labels": np.concatenate(labels), "mask": np.concatenate(masks)},
        per_row={**examples.per_row, "label": desirable.astype(np.int32)},
    )


def _others(prompts: list[bytes], files: str) -> list[int]:
    """Return for each row the nearest one before it, around the end, with another prompt. Raises DataError where there is none."""
    count = len(prompts)
    last = next((j for j in range(count - 1, -1, -1) if prompts[j] != prompts[0]), None)
    if last is None:
        raise DataError(
            f"{files}: all rows have the same prompt",
            hint="KTO pairs a prompt with the answer to another one: give rows with different prompts.",
        )
    found = [last]
    for i in range(1, count):
        found.append(found[-1] if prompts[i] == prompts[i - 1] else i - 1)
    return found
