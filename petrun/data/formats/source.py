"""Read the bytes of a data file that a user names.

A large file is not held in memory: its digest and its lines are read block by block. What is compressed or comes through a pipe is held.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from petrun.data.formats.compressed import SUFFIXES as PACKED_SUFFIXES
from petrun.data.formats.compressed import is_packed, unpacked
from petrun.data.formats.slices import RowRange, split_slice
from petrun.errors import DataError

_MAGIC = {
    b"%PDF": ("a PDF document", "Extract its text first."),
    b"ARROW1": ("an Arrow file", "Save it as parquet: datasets.Dataset.to_parquet(...)."),
    b"SQLite format 3": ("an SQLite database", "Export the table as CSV or JSONL."),
    b"\x93NUMPY": ("a single .npy array", "Store named arrays with numpy.savez(file, x=..., label=...)."),
}


_BLOCK_BYTES = 2**22
_MAGIC_BYTES = 16
_HEAD_BYTES = 2**20


@dataclass(frozen=True)
class Source:
    """One data file and its bytes."""

    path: Path
    content: bytes | None = field(repr=False)
    """Its content in memory, decompressed where the file is compressed; None where it is read from the file."""
    digest: str
    """SHA-256 of the content and of the numbers of the rows that are read."""
    rows: RowRange | None = None
    """The rows that are read; None: all."""
    note: str = ""
    """A note for the user on how the file was chosen."""
    stamp: tuple[int, int] = (0, 0)
    """Size in bytes and time of the last change of a file that is not in memory."""

    @cached_property
    def raw(self) -> bytes:
        """The full content. Raises DataError where the file has changed."""
        return self.read(0, self.size)

    @cached_property
    def head(self) -> bytes:
        """The first megabyte."""
        return self.read(0, min(self.size, _HEAD_BYTES))

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return self.stamp[0] if self.content is None else len(self.content)

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop` - 1. Raises DataError where the file has changed since its digest was computed."""
        if self.content is not None:
            return self.content[start:stop]
        with _opened(self.path) as file:
            self._require_unchanged(file)
            file.seek(start)
            return file.read(stop - start)

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yield (its offset, bytes) of blocks of some megabytes, each of which ends with a line feed or with the file. Raises DataError."""
        if self.content is None:
            with _opened(self.path) as file:
                self._require_unchanged(file)
                yield from _blocks(file)
        else:
            yield from _blocks(io.BytesIO(self.content))

    def _require_unchanged(self, file: BinaryIO) -> None:
        if _stamp(file) != self.stamp:
            raise DataError(f"{self.path}: was changed while it was read", hint="Start again when it is complete.")

    @property
    def suffix(self) -> str:
        """The suffix that names the format, in lower case: `.jsonl` of rows.jsonl.gz."""
        return data_suffix(self.path)


def data_suffix(path: Path) -> str:
    """Return the suffix that names the format, in lower case, without the one of a compressed file."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in PACKED_SUFFIXES else suffix


def read_source(name: str | Path) -> Source:
    """Read one data file, or some rows of it.

    Raises: DataError when it is missing, a folder, unreadable, damaged or empty.
    """
    path, rows = split_slice(name)
    if path.is_dir():
        raise DataError(f"{path}: is a folder, expected a data file", hint=folder_hint(path))
    if not path.exists():
        near = _neighbours(path)
        sliced = " `#500` after a file's name takes its first 500 rows, `#100:200` others." if "#" in path.name else ""
        raise DataError(f"{path}: no such data file", hint=(f"Beside it: {near}." if near else "") + sliced)
    digest = hashlib.sha256()
    content, stamp, blank = None, (0, 0), True
    with _opened(path) as file:
        if path.is_file() and not is_packed(file.peek(_MAGIC_BYTES)):
            stamp = _stamp(file)
            for _, block in _blocks(file):
                digest.update(block)
                blank = blank and not block.strip()
        else:
            content = unpacked(path, file.read())
            digest.update(content)
            blank = not content.strip()
    if blank:
        raise DataError(f"{path}: the file is empty", hint="A data file needs at least one row.")
    if rows is not None:
        digest.update(str(rows).encode())
    return Source(path, content, digest.hexdigest(), rows, stamp=stamp)


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file for reading. Raises DataError for every error of the operating system inside the block."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _stamp(file: BinaryIO) -> tuple[int, int]:
    stat = os.fstat(file.fileno())
    return stat.st_size, stat.st_mtime_ns


def _blocks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while block := file.read(_BLOCK_BYTES):
        block += file.readline()
        yield offset, block
        offset += len(block)


def folder_hint(folder: Path) -> str:
    """Return the hint that lists the content of a folder."""
    near = _neighbours(folder / "any")
    return f"It holds: {near}" if near else "It holds no files."


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir() or not os.access(path.parent, os.R_OK):
        return ""
    names = visible_names(path.parent)
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def visible_names(folder: Path) -> list[str]:
    """Return the names of the files in a folder that are not hidden, sorted."""
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def refuse_known_binary(source: Source) -> None:
    """Raises DataError for documents that are not data rows."""
    for magic, (what, hint) in _MAGIC.items():
        if source.head.startswith(magic):
            raise DataError(f"{source.path}: is {what}, not rows of data", hint=hint.format(name=source.path.name))
