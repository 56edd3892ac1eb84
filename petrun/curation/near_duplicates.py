"""Find near duplicates among many texts: MinHash over character 5-grams, banded (LSH), every candidate checked by its whole signature.

A signature of 128 minima estimates the Jaccard similarity of two sets of 5-grams with a standard error of at most 0.045. Signatures lie
in a file, and bands are sorted one after another, so memory grows by some tens of bytes a text. The hash family and the number of bands
are datasketch's.

Sources: Broder, "On the resemblance and containment of documents", 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.4.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from petrun.data.examples.array_store import release_pages
from petrun.errors import SetupError
from petrun.tensors import Array

PERMUTATIONS = 128
_SHINGLE = 5
# Characters are numbers below 2^21; an odd multiplier spreads each over all 64 bits.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MISSES_COUNT = (0.1, 0.9)
"""Weights of false candidates, which cost a comparison, and of missed pairs, in the choice of bands."""
_PAIRS = 1_000_000
_BLOCK_TEXTS = 2**16


def _datasketch() -> Any:
    try:
        import datasketch
    except ImportError as error:
        raise SetupError(
            f"near duplicates need the package datasketch, which cannot be imported: {error}",
            hint="pip install 'petrun[data]', or --near 0 for exact duplicates alone.",
        ) from error
    return datasketch


def shingles(text: str) -> Array:
    """Hash the character 5-grams of a text, each once, to (n,) uint64, ascending; a shorter text is one 5-gram."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    codes = np.pad(codes, (0, max(0, _SHINGLE - len(codes))))
    found = np.zeros(len(codes) - _SHINGLE + 1, np.uint64)
    for i in range(_SHINGLE):
        # Arrays of uint64 wrap around without a warning.
        found = (found ^ codes[i : len(codes) - _SHINGLE + 1 + i]) * _MULTIPLIER
        found ^= found >> np.uint64(29)
    return np.unique(found)


class NearDuplicates:
    """Takes texts one by one, and groups them once all were added. A context manager, whose temporary files go at its end."""

    def __init__(self, threshold: float, folder: Path, seed: int = 1) -> None:
        """`threshold`: least estimated similarity of a pair, 0 to 1; `folder`: for signatures, 512 bytes a text. Raises SetupError."""
        package = _datasketch()
        index = package.MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=_MISSES_COUNT)
        self.threshold, self.bands, self.band_rows = threshold, int(index.b), int(index.r)
        # Shingles are hashed already: the family's own finaliser mixes the 32 bits that it takes.
        self._empty = package.MinHash(num_perm=PERMUTATIONS, seed=seed, hashfunc=lambda value: value, scheme="affine32")
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self.count = 0

    def __enter__(self) -> NearDuplicates:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, text: str) -> None:
        """Add a text. Texts are numbered from 0."""
        sketch = self._empty.copy()
        sketch.update_batch((shingles(text) & np.uint64(0xFFFFFFFF)).tolist())
        self._file.write(np.asarray(sketch.hashvalues, np.uint32).tobytes())
        self.count += 1

    def groups(self, alive: Array | None = None) -> tuple[Array, Array]:
        """Join texts into groups, of which each member is a near duplicate of another.

        Inputs: `alive`, (n,) bool: texts that take part; None: all.
        Returns: (n,) int64, the first text of each text's group; (n,) float64, its estimated similarity to that text.
        """
        first = np.arange(self.count)
        if not self.count or (alive is not None and not alive.any()):
            return first, np.ones(self.count)
        self._file.flush()
        signatures = np.memmap(self._file, np.uint32, "r", shape=(self.count, PERMUTATIONS))
        taking_part = np.flatnonzero(alive) if alive is not None else first.copy()
        for earlier, later in self._candidates(signatures, taking_part):
            alike = _similarity(signatures, earlier, later) >= self.threshold
            _join(first, earlier[alike], later[alike])
        for text in range(self.count):
            # A root is the lowest of its group, so those before are settled.
            first[text] = first[first[text]]
        return first, _similarity(signatures, first, np.arange(self.count))

    def _candidates(self, signatures: Array, texts: Array) -> Iterator[tuple[Array, Array]]:
        """Yield (earlier, later) of texts that share a band: each with the first of its bucket, and with the one before it."""
        for band in range(self.bands):
            keys = np.concatenate(list(self._band_keys(signatures, texts, band * self.band_rows)))
            order = np.argsort(keys, kind="stable")
            ordered, named = keys[order], texts[order]
            opens = np.r_[True, ordered[1:] != ordered[:-1]]
            bucket = np.maximum.accumulate(np.where(opens, np.arange(len(texts)), 0))
            later = np.flatnonzero(~opens)
            yield named[bucket[later]], named[later]
            behind = later[later - bucket[later] > 1]
            yield named[behind - 1], named[behind]

    def _band_keys(self, signatures: Array, texts: Array, start: int) -> Iterator[Array]:
        """Yield keys, (n,) uint64, of the band that begins with the column `start`, block by block."""
        for first in range(0, len(texts), _BLOCK_TEXTS):
            band = signatures[texts[first : first + _BLOCK_TEXTS], start : start + self.band_rows].astype(np.uint64)
            keys = np.zeros(len(band), np.uint64)
            for column in band.T:
                keys = (keys ^ column) * _MULTIPLIER
                keys ^= keys >> np.uint64(31)
            # Pages of the file that were read are given back: it is as large as 512 bytes a text.
            release_pages(signatures)
            yield keys


def _similarity(signatures: Array, one: Array, other: Array) -> Array:
    """Return the share of equal minima of each pair, (n,) float64."""
    found = np.empty(len(one))
    step = _PAIRS // PERMUTATIONS
    for start in range(0, len(one), step):
        part = slice(start, start + step)
        found[part] = (signatures[one[part]] == signatures[other[part]]).mean(axis=1)
        release_pages(signatures)
    return found


def _join(first: Array, earlier: Array, later: Array) -> None:
    """Join the groups of each pair; `first` points to a lower text of the same group, a root to itself."""

    def root(text: int) -> int:
        while first[text] != text:
            first[text] = first[first[text]]
            text = int(first[text])
        return text

    for one, other in zip(earlier.tolist(), later.tolist(), strict=True):
        low, high = sorted((root(one), root(other)))
        first[high] = low
