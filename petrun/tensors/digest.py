"""Compute digests of tensors by content, independent of file format, path, order and sharding."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from petrun.tensors.reader import TensorReader


def tensor_digest(reader: TensorReader, name: str) -> str:
    """Return SHA-256 (hex) over one tensor's stored bytes, read in chunks."""
    digest = hashlib.sha256()
    for chunk in reader.raw_chunks(name):
        digest.update(chunk)
    return digest.hexdigest()


def content_digest(tensors: Iterable[tuple[str, str, Sequence[int], str]]) -> str:
    """Return SHA-256 (hex) over (name, dtype, shape, digest of the bytes) of every tensor, sorted by name."""
    digest = hashlib.sha256()
    for name, dtype, shape, of_bytes in sorted(tensors, key=lambda t: t[0]):
        # A length before each text: no two different lists of tensors can produce the same stream.
        for part in (name, dtype, "x".join(map(str, shape)), of_bytes):
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(4, "big"))
            digest.update(encoded)
    return digest.hexdigest()
