"""Read the bytes of a data file that a user names."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from petrun.data.formats.compressed import SUFFIXES as PACKED_SUFFIXES
from petrun.data.formats.compressed import unpacked
from petrun.data.formats.slices import RowRange, split_slice
from petrun.errors import DataError

_MAGIC = {
    b"%PDF": ("a PDF document", "Extract its text first."),
    b"ARROW1": ("an Arrow file", "Save it as parquet: datasets.Dataset.to_parquet(...)."),
    b"SQLite format 3": ("an SQLite database", "Export the table as CSV or JSONL."),
    b"\x93NUMPY": ("a single .npy array", "Store named arrays with numpy.savez(file, x=..., label=...)."),
}


@dataclass(frozen=True)
class Source:
    """One data file and its bytes."""

    path: Path
    raw: bytes = field(repr=False)
    """Its content, decompressed where the file is compressed."""
    digest: str
    """SHA-256 of the content and of the numbers of the rows that are read."""
    rows: RowRange | None = None
    """The rows that are read; None: all."""
    note: str = ""
    """A note for the user on how the file was chosen."""

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
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    raw = unpacked(path, raw)
    if not raw.strip():
        raise DataError(f"{path}: the file is empty", hint="A data file needs at least one row.")
    digest = hashlib.sha256(raw)
    if rows is not None:
        digest.update(str(rows).encode())
    return Source(path, raw, digest.hexdigest(), rows)


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
        if source.raw.startswith(magic):
            raise DataError(f"{source.path}: is {what}, not rows of data", hint=hint.format(name=source.path.name))
