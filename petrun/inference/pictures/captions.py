"""Computes the states of texts that the U-Net attends to: texts to tokens, tokens to states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mindspore import Tensor

from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.errors import DataError
from petrun.models.pipeline import Pipeline
from petrun.tensors import Array
from petrun.typing import Cell


@dataclass(frozen=True, kw_only=True)
class CaptionIds:
    """Texts as tokens, all padded to the positions of the text encoder."""

    ids: Array
    """(n, positions) int32."""
    cut: tuple[bool, ...]
    """Whether a text was longer, and lost its end."""


def caption_ids(
    texts: Sequence[str], where: Sequence[str], tokenizer: Tokenizer, pipeline: Pipeline, longest: int
) -> CaptionIds:
    """Tokenise texts. `where`: what each is called in messages; `longest`: tokens of a text, at most the encoder's positions.

    Raises DataError for a token that the text encoder does not have.
    """
    positions = pipeline.text.positions
    assert positions is not None
    encoded = tokenizer.encode_many(texts, longest=min(longest, positions))
    ids = np.full((len(texts), positions), tokenizer.pad_id, np.int32)
    for row, found in enumerate(encoded.ids):
        ids[row, : len(found)] = found
    if int(ids.max()) >= pipeline.text.vocab:
        row = int(np.argmax(ids.max(1)))
        raise DataError(
            f"{where[row]}: the tokenizer gives the id {int(ids.max())}, but the text encoder's vocabulary has "
            f"{pipeline.text.vocab} entries",
            hint="The tokenizer's files do not belong to this pipeline.",
        )
    return CaptionIds(ids=ids, cut=tuple(bool(cut) for cut in encoded.cut))


def text_states(encoder: Cell, ids: Array) -> Array:
    """(n, positions) int32 -> (n, positions, S) float32."""
    states: Array = encoder(Tensor(ids)).asnumpy()
    return states
