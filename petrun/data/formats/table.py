"""Read the rows of data files: list the formats, and find the format of a file.

A file's content decides; its suffix decides only where the content is ambiguous; data.format takes precedence over both.
Files may be compressed (.gz, .bz2, .xz, .zst) and in another encoding than UTF-8 (petrun/data/formats/encoding.py).

    jsonl      one JSON object a line
    json       a list of objects, or {"data": [...]}
    csv, tsv   a header row, or without one two columns: text, label. TSV cells are read unchanged (quotes are text);
               CSV cells may be quoted
    text       plain text; what a row is (a line, or a block of one stream) depends on the task
    separated  `input<separator>reference` lines
    parquet    needs the extra `parquet`
    mindrecord MindSpore's own files, with their index beside them
    npz        named arrays with equal first axes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from petrun.data.formats.csv import CSV
from petrun.data.formats.encoding import find_encoding
from petrun.data.formats.format import FileContent, Format
from petrun.data.formats.json import JSON
from petrun.data.formats.jsonl import JSONL
from petrun.data.formats.mindrecord import MINDRECORD
from petrun.data.formats.npz import NPZ
from petrun.data.formats.parquet import PARQUET
from petrun.data.formats.records import Records
from petrun.data.formats.separated import SEPARATED
from petrun.data.formats.source import Source, read_source, refuse_known_binary
from petrun.data.formats.text import TEXT
from petrun.data.formats.tsv import TSV
from petrun.errors import ConfigError, SetupError, did_you_mean

FORMATS: tuple[Format, ...] = (SEPARATED, JSONL, JSON, CSV, TSV, TEXT, PARQUET, MINDRECORD, NPZ)
"""Every format, in the order in which they are asked whether they recognise a file."""


def format_names() -> list[str]:
    """The names that data.format takes."""
    return [each.name for each in FORMATS]


def find_format(name: str) -> Format:
    """Return the format of this name. Raises ConfigError for an unknown one."""
    names = format_names()
    if name not in names:
        raise ConfigError(f"data.format: unknown format '{name}'", hint=did_you_mean(name, names))
    return FORMATS[names.index(name)]


def suffix_format(suffix: str) -> Format | None:
    """Return the format that a suffix in lower case names, such as .jsonl."""
    return next((each for each in FORMATS if suffix in each.suffixes), None)


def data_suffixes() -> tuple[str, ...]:
    """Return the suffixes of all formats."""
    return tuple(suffix for each in FORMATS for suffix in each.suffixes)


def read_records(
    source: Source | str | Path,
    *,
    format: str | None = None,
    separator: str | None = None,
    columns: Mapping[str, str] | None = None,
    encoding: str | None = None,
    max_rows: int | None = None,
) -> Records:
    """Read the rows of one file, in the file's order.

    Inputs: `columns`, canonical column -> column of the file; used here only to recognise a header row.
    Raises: DataError naming file and line; SetupError for parquet without its package; ConfigError for an unknown format.
    """
    given = find_format(format) if format is not None else None
    if separator is not None and not separator.strip("\n"):
        raise ConfigError("data.separator: must not be empty")
    if not isinstance(source, Source):
        source = read_source(source)
    found = given or binary_format(source)
    content = _content(source, separator=separator, columns=columns or {})
    notes: tuple[str, ...] = ()
    if found is None or not found.binary:
        refuse_known_binary(source)
        note = find_encoding(source, encoding)[1]
        notes = (note,) if note else ()
        content = replace(content, encoding=encoding)
        found = found or _text_format(content)
    records = _read(found, content)
    records = replace(
        records, format=found.name, unit=found.unit, sorted_keys=found.sorted_keys, notes=(*notes, *records.notes)
    )
    if source.rows is not None:
        records = records.part(source.rows)
    return records.head(max_rows)


def detect_format(source: Source, *, separator: str | None = None, encoding: str | None = None) -> Format:
    """Return the format of a file, from its content; the suffix decides where that is ambiguous. Raises DataError."""
    return binary_format(source) or _text_format(replace(_content(source, separator=separator), encoding=encoding))


def binary_format(source: Source) -> Format | None:
    """Return the binary format that recognises the bytes; None for any other file, which must then be text. Raises DataError."""
    content = _content(source)
    for each in FORMATS:
        if each.binary and each.recognise(content):
            return each
    refuse_known_binary(source)
    named = suffix_format(source.suffix)
    if named is not None and named.binary and named.mismatch is not None:
        raise named.mismatch(content)
    return None


def _text_format(content: FileContent) -> Format:
    for each in FORMATS:
        if not each.binary and each.recognise(content):
            return each
    named = find_format(content.suffix_format)
    if named.mismatch is not None:
        raise named.mismatch(content)
    return named


def _content(source: Source, *, separator: str | None = None, columns: Mapping[str, str] | None = None) -> FileContent:
    named = suffix_format(source.suffix)
    return FileContent(
        source=source, suffix_format=named.name if named else "", separator=separator, columns=columns or {}
    )


def _read(format: Format, content: FileContent) -> Records:
    if not format.requires:
        return format.read(content)
    try:
        return format.read(content)
    except ImportError as error:
        # Also where the package is installed, but too new or too old for another one.
        found = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        raise SetupError(
            f"{content.source.path}: reading {format.name} needs the package {format.requires}{found}",
            hint=f"pip install 'petrun[{format.extra}]'",
        ) from error
