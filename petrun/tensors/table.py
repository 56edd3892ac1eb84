"""Define the table of contents of a file: each tensor's type, shape and offsets."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path

from petrun.errors import WeightsError
from petrun.tensors.dtypes import BY_NAME


@dataclass(frozen=True)
class TensorInfo:
    shape: tuple[int, ...]
    dtype: str
    """"float32", "bfloat16", "int64", ...: see dtypes.py."""

    @property
    def elements(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def nbytes(self) -> int:
        return (self.elements * BY_NAME[self.dtype].bits + 7) // 8


@dataclass(frozen=True, kw_only=True)
class Extent:
    """A run of bytes of one file."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True)
class Stored:
    """One tensor: what it is, and the runs of bytes that hold it, in order."""

    info: TensorInfo
    extents: tuple[Extent, ...]


@dataclass(frozen=True)
class Table:
    """The table that a format's scanner makes of a file."""

    tensors: dict[str, Stored]
    metadata: dict[str, str] = field(default_factory=dict)


def unreadable(path: Path, error: OSError) -> WeightsError:
    """Convert the operating system's error about a file into one that names the file inside a folder."""
    path_at_fault = error.filename or path
    if error.errno == errno.ENOENT:
        return WeightsError(f"{path_at_fault}: no such file or folder", hint="Check the spelling of the path.")
    reason = error.strerror or str(error)
    return WeightsError(f"{path_at_fault}: cannot be read: {reason}", hint="Check the path and its permissions.")
