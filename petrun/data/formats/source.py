"""Files and folders as a user names them -> the bytes of each data file."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from petrun.data.formats.compressed import SUFFIXES as PACKED_SUFFIXES
from petrun.data.formats.compressed import unpacked
from petrun.data.formats.slices import RowRange, split_slice
from petrun.errors import DataError

DATA_SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".txt": "text", ".text": "text", ".parquet": "parquet", ".npz": "npz",
}  # fmt: skip
_MAGIC = {
    b"%PDF": ("a PDF document", "Extract its text first."),
    b"ARROW1": ("an Arrow file", "Save it as parquet: datasets.Dataset.to_parquet(...)."),
    b"SQLite format 3": ("an SQLite database", "Export the table as CSV or JSONL."),
    b"\x93NUMPY": ("a single .npy array", "Store named arrays with numpy.savez(file, x=..., label=...)."),
}
_ABOUT = ("dataset_info.json", "dataset_infos.json", "configuration.json", "dataset_dict.json", "state.json")
"""What hubs of data sets put beside the rows."""
_SPLITS = {
    "train": "train", "training": "train", "dev": "validation", "valid": "validation", "validation": "validation",
    "val": "validation", "eval": "test", "test": "test", "testing": "test",
}  # fmt: skip
"""Words in file names that say which part of a data set a file is."""


@dataclass(frozen=True)
class Source:
    """One data file, read whole."""

    path: Path
    raw: bytes = field(repr=False)
    """Its content, unpacked where the file is compressed."""
    digest: str
    """SHA-256 of the content and of which rows are taken."""
    rows: RowRange | None = None
    """The rows that are taken; None: all."""
    note: str = ""
    """What the user should know of how the file was chosen."""

    @property
    def suffix(self) -> str:
        """The ending that says the format, in lower case: `.jsonl` of rows.jsonl.gz."""
        return data_suffix(self.path)


def data_suffix(path: Path) -> str:
    """The ending that says the format, in lower case, below one that says how the file is compressed."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in PACKED_SUFFIXES else suffix


def read_sources(name: str | Path) -> list[Source]:
    """Read a data file, some rows of it (`rows.jsonl#500`), or all data files of a folder, by name.

    Raises: DataError when it is missing, unreadable or empty; for a folder without data files, or with files of several splits.
    """
    path, rows = split_slice(name)
    if not path.is_dir():
        return [read_source(name)]
    if rows is not None:
        raise DataError(f"{path}: is a folder, and {rows} takes rows of one file", hint="Name a file of the folder.")
    files = folder_files(path)
    others = [name for name in _names(path) if path / name not in files]
    left_out = f"; left out: {', '.join(others[:10])}{', ...' if len(others) > 10 else ''}" if others else ""
    sources = [read_source(file) for file in files]
    first = replace(sources[0], note=f"{path}: {len(files)} file{'s' * (len(files) != 1)} read{left_out}")
    return [first, *sources[1:]]


def read_source(name: str | Path) -> Source:
    """Read one data file, or some rows of it.

    Raises: DataError when it is missing, a folder, unreadable, damaged or empty.
    """
    path, rows = split_slice(name)
    if path.is_dir():
        raise DataError(f"{path}: is a folder, expected a data file", hint=_holds(path))
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


def folder_files(folder: Path) -> list[Path]:
    """The data files of a folder, by name; numbers in names count as numbers.

    Raises: DataError for a folder without any, and for one whose names say that they are different parts of a data set: rows to
    train on and rows to test with must not become one.
    """
    try:
        found = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from error
    files = sorted((p for p in found if data_suffix(p) in DATA_SUFFIXES and p.name not in _ABOUT), key=_by_number)
    if not files:
        raise DataError(
            f"{folder}: the folder holds no data file ({', '.join(DATA_SUFFIXES)}, each also compressed)",
            hint=_holds(folder),
        )
    splits = {_SPLITS[word]: p for p in files for word in re.split(r"[^a-z]+", p.name.lower()) if word in _SPLITS}
    if len(splits) > 1:
        raise DataError(
            f"{folder}: the folder holds parts of a data set that must not be mixed: {', '.join(sorted(splits))}",
            hint=f"Name the files of one part, with commas between them: {', '.join(p.name for p in files[:10])}",
        )
    return files


def _by_number(path: Path) -> list[tuple[int, str]]:
    """part-2 stands before part-10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _holds(folder: Path) -> str:
    near = _neighbours(folder / "any")
    return f"It holds: {near}" if near else "It holds no files."


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir() or not os.access(path.parent, os.R_OK):
        return ""
    names = _names(path.parent)
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def refuse_known_binary(source: Source) -> None:
    """Raises: DataError for documents that are not data rows."""
    for magic, (what, hint) in _MAGIC.items():
        if source.raw.startswith(magic):
            raise DataError(f"{source.path}: is {what}, not rows of data", hint=hint.format(name=source.path.name))
