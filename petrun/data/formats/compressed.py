"""Decompress data files: gzip, bzip2, xz and zstd, recognised by their first bytes."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path

import zstandard

from petrun.errors import DataError

SUFFIXES = (".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd")
"""Suffixes of compressed files; the suffix before them names the format."""
_TAR = slice(257, 262)


def _zstd(raw: bytes) -> bytes:
    """Decompress every frame of a zstd file, because zstandard's readers accept a truncated file."""
    parts = []
    while raw:
        frame = zstandard.ZstdDecompressor().decompressobj()
        parts.append(frame.decompress(raw))
        if not frame.eof:
            raise EOFError("the file ends within a frame")
        raw = frame.unused_data
    return b"".join(parts)


_KINDS: dict[bytes, tuple[str, Callable[[bytes], bytes]]] = {
    b"\x1f\x8b": ("gzip", gzip.decompress),
    b"BZh": ("bzip2", bz2.decompress),
    b"\xfd7zXZ": ("xz", lzma.decompress),
    b"\x28\xb5\x2f\xfd": ("zstd", _zstd),
}
# The errors of the four for damaged or truncated files.
_DAMAGE = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zstandard.ZstdError)


def is_packed(head: bytes) -> bool:
    """Return whether a file with these first bytes is compressed."""
    return head.startswith(tuple(_KINDS))


def unpacked(path: Path, raw: bytes) -> bytes:
    """Return the content of a compressed file; any other file's bytes unchanged.

    Raises: DataError for a damaged or truncated file, and for an archive of several files.
    """
    kind = next((kind for magic, kind in _KINDS.items() if raw.startswith(magic)), None)
    if kind is None:
        return raw
    name, unpack = kind
    try:
        content = unpack(raw)
    except _DAMAGE as error:
        raise DataError(
            f"{path}: the {name} file is damaged or cut short: {error}", hint="Write or download it again."
        ) from error
    if content[_TAR] == b"ustar":
        raise DataError(f"{path}: is a tar archive, not one file of rows", hint="Unpack it, and give the folder.")
    return content
