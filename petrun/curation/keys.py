"""Reduce texts to keys of 64 bits by which rows are told apart, grouped and drawn: 8 bytes a row whatever the text's length."""

from __future__ import annotations

import hashlib
import re
import unicodedata

import numpy as np

from petrun.data.examples.example_set import scramble
from petrun.tensors import Array

_SPACE = re.compile(r"\s+")


def text_key(text: str) -> int:
    """Return a key of the text's exact characters. Two of 1e6 texts share one by chance with a probability of 3e-8."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def normalised(text: str) -> str:
    """Return the text as duplicates are compared: NFKC, case folded, white space made one space, none at the ends."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def draw_order(count: int, seed: int, purpose: str) -> Array:
    """Return the numbers 0 .. count - 1 in an order drawn by the seed, (count,) int64, the same in any numpy version."""
    return np.argsort(scramble(np.arange(count), seed, purpose), kind="stable")
