"""Find the data files of a file or folder that a user names."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from petrun.data.formats.slices import split_slice
from petrun.data.formats.source import Source, data_suffix, folder_hint, read_source, visible_names
from petrun.data.formats.table import data_suffixes
from petrun.errors import DataError

_ABOUT = ("dataset_info.json", "dataset_infos.json", "configuration.json", "dataset_dict.json", "state.json")
"""Files that hubs of data sets put beside the rows."""
_SPLITS = {
    "train": "train", "training": "train", "dev": "validation", "valid": "validation", "validation": "validation",
    "val": "validation", "eval": "test", "test": "test", "testing": "test",
}  # fmt: skip
"""Words in file names that say which part of a data set a file is."""


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
    others = [name for name in visible_names(path) if path / name not in files]
    left_out = f"; left out: {', '.join(others[:10])}{', ...' if len(others) > 10 else ''}" if others else ""
    sources = [read_source(file) for file in files]
    first = replace(sources[0], note=f"{path}: {len(files)} file{'s' * (len(files) != 1)} read{left_out}")
    return [first, *sources[1:]]


def folder_files(folder: Path) -> list[Path]:
    """Return the data files of a folder, sorted by name; numbers in names count as numbers.

    Raises: DataError for a folder without any, and for one whose names say that they are different parts of a data set: rows for
    training and for tests must not be mixed.
    """
    suffixes = data_suffixes()
    try:
        found = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from error
    files = sorted((p for p in found if data_suffix(p) in suffixes and p.name not in _ABOUT), key=by_number)
    if not files:
        raise DataError(
            f"{folder}: the folder holds no data file ({', '.join(suffixes)}, each also compressed)",
            hint=folder_hint(folder),
        )
    splits = {_SPLITS[word]: p for p in files for word in re.split(r"[^a-z]+", p.name.lower()) if word in _SPLITS}
    if len(splits) > 1:
        raise DataError(
            f"{folder}: the folder holds parts of a data set that must not be mixed: {', '.join(sorted(splits))}",
            hint=f"Name the files of one part, with commas between them: {', '.join(p.name for p in files[:10])}",
        )
    return files


def by_number(path: Path) -> list[tuple[int, str]]:
    """Sort key by which part-2 is before part-10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
