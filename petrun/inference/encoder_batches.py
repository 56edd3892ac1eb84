"""Fill up texts that a net sees whole, such as an encoder's, to a few shapes, so that few graphs are compiled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from petrun.tensors import Array

ENCODERS = ("bert", "roberta")
"""Families whose inputs these are."""
_SHORTEST = 16
LONGEST = 512
"""Most tokens of a text where a model does not say it."""


def by_length(rows: Sequence[Sequence[int]], size: int) -> Iterator[Array]:
    """Yield the numbers of the rows of each batch. The longest rows come first, so that too little memory shows at once."""
    order = np.argsort([-len(row) for row in rows], kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]


def padded(
    rows: Sequence[Sequence[int]], pad_id: int, longest: int, types: Sequence[Sequence[int] | None] = ()
) -> dict[str, Array]:
    """Return every input that nets have, (B, T) int32: input_ids, segment_ids (0 for padding), token_type_ids, position_ids.

    `longest`: most tokens of a row; `types`: of the second text of each row 1; () or None: all 0.
    """
    most = max(map(len, rows))
    # Powers of two up to the longest: one graph each.
    width = max(most, min(longest, max(_SHORTEST, 1 << (most - 1).bit_length())))
    ids = np.full((len(rows), width), pad_id, np.int32)
    segments, kinds = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        segments[i, : len(row)] = 1
        given = types[i] if types else None
        if given is not None:
            kinds[i, : len(row)] = given
    positions = np.where(segments > 0, np.cumsum(segments > 0, axis=1) - 1, 0).astype(np.int32)
    return {"input_ids": ids, "segment_ids": segments, "token_type_ids": kinds, "position_ids": positions}
