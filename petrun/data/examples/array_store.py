"""Collect arrays that grow: in memory while they are small, then in files without a name, from which they are mapped when complete."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from petrun.data.formats.records import Array

_PIECE_BYTES = 2**22
_HELD_BYTES = 32 * 2**20
"""Blocks of so many bytes are kept in memory."""


class ArrayStore:
    """Arrays (n,) by name, each appended to block by block.

    However many rows there are, memory holds 32 MiB of blocks; the others are in unnamed files of a folder, which vanish with the process.
    Without a folder, or where it cannot be written, everything stays in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._arrays: dict[str, _Growing] = {}
        self._held_bytes = 0

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def append(self, name: str, block: Array) -> None:
        """Append to an array. All blocks of a name have one dtype."""
        if name not in self._arrays:
            self._arrays[name] = _Growing(block.dtype)
        if not len(block):
            return
        self._arrays[name].blocks.append(block)
        self._held_bytes += block.nbytes
        if self._folder is not None and self._held_bytes > _HELD_BYTES:
            self._held_bytes = 0
            try:
                for array in self._arrays.values():
                    array.open(self._folder)
                    array.write()
            except OSError:
                # Such as a full disk: what could not be written stays in memory.
                self._folder = None

    def finish(self) -> dict[str, Array]:
        """Return the complete arrays, read-only where they are mapped from a file."""
        return {name: array.finish() for name, array in self._arrays.items()}

    def close(self) -> None:
        """Close the files, which arrays that are mapped from them outlive."""
        for array in self._arrays.values():
            if array.file is not None:
                array.file.close()


class _Growing:
    """One array: what is in its file, then `blocks`."""

    def __init__(self, dtype: np.dtype[np.generic]) -> None:
        self.dtype = dtype
        self.blocks: list[Array] = []
        self.file: BinaryIO | None = None
        self.written = 0
        """Bytes of complete blocks in the file."""

    def open(self, folder: Path) -> None:
        """Raises OSError."""
        if self.file is None:
            folder.mkdir(parents=True, exist_ok=True)
            # Without a buffer, so that what was written is known when the disk is full.
            self.file = cast(BinaryIO, tempfile.TemporaryFile(dir=folder, buffering=0))  # noqa: SIM115

    def write(self) -> None:
        """Move the blocks to the file. Raises OSError; blocks that were not written completely are kept."""
        assert self.file is not None
        while self.blocks:
            rest = np.ascontiguousarray(self.blocks[0]).data.cast("B")
            self.file.seek(self.written)
            while len(rest):
                rest = rest[self.file.write(rest) :]
            self.written += self.blocks.pop(0).nbytes

    def finish(self) -> Array:
        stored: list[Array] = []
        if self.file is not None:
            with suppress(OSError):
                self.write()
            if self.written:
                stored = [map_array(self.file, self.dtype, 0, (self.written // self.dtype.itemsize,))]
        parts = [*stored, *self.blocks]
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, self.dtype), *parts])


def map_array(file: BinaryIO, dtype: np.dtype[np.generic], offset: int, shape: tuple[int, ...]) -> Array:
    """Map an array of a file into memory, read-only. It stays valid when the file is closed or removed."""
    # Plain ndarrays: slices of numpy.memmap take several times as long.
    return np.memmap(file, dtype, mode="r", offset=offset, shape=shape).view(np.ndarray)


def pieces(array: Array) -> Iterator[Array]:
    """Yield an array (n, ...) in views of some megabytes, for a pass over a mapped array that leaves no memory in use."""
    step = max(1, _PIECE_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        yield array[start : start + step]
        release_pages(array)


def release_pages(array: Array) -> None:
    """Give the memory of a mapped array's pages back to the system after a pass over all of it; they are read again when needed.

    Without this, the process's resident memory would show the file's size.
    """
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
