"""Data files -> rows: JSONL, JSON, CSV, TSV, plain text, `input||reference` lines, parquet, npz.

The format is told by the content; the suffix only decides where the content leaves it open; an explicit format wins over both.
Files may be compressed (.gz, .bz2, .xz, .zst) and in another encoding than UTF-8 (petrun/data/formats/encoding.py).

    jsonl      one JSON object a line
    json       a list of objects, or {"data": [...]}
    csv, tsv   a header row, or without one two columns: text, label. TSV cells are taken as they are (quotes are text);
               CSV cells may be quoted
    text       plain text; what a row is (a line, or a block of one stream) depends on the task
    separated  `input<separator>reference` lines
    parquet    needs the extra `parquet`
    npz        named arrays with equal first axes
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from petrun.data.formats.arrays import read_npz, read_parquet
from petrun.data.formats.delimited import looks_like_header, read_delimited
from petrun.data.formats.encoding import decode_text
from petrun.data.formats.json import read_json, read_jsonl
from petrun.data.formats.records import Records
from petrun.data.formats.source import DATA_SUFFIXES, Source, read_source, refuse_known_binary
from petrun.errors import ConfigError, DataError, did_you_mean

FORMATS = ("jsonl", "json", "csv", "tsv", "text", "separated", "parquet", "npz")
_PROBE = 200_000
"""Characters that are looked at to tell a text format."""


def read_records(
    source: Source | str | Path,
    *,
    format: str | None = None,
    separator: str | None = None,
    columns: Mapping[str, str] | None = None,
    encoding: str | None = None,
    max_rows: int | None = None,
) -> Records:
    """Rows of one file, in the file's order.

    Inputs: `columns`, canonical column -> column of the file; only used here to recognise a header row.
    Raises: DataError naming file and line; SetupError for parquet without its package; ConfigError for an unknown format.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(f"data.format: unknown format '{format}'", hint=did_you_mean(format, FORMATS))
    if separator is not None and not separator.strip("\n"):
        raise ConfigError("data.separator: must not be empty")
    if not isinstance(source, Source):
        source = read_source(source)
    kind = format or binary_format(source)
    if kind == "parquet":
        records = read_parquet(source)
    elif kind == "npz":
        records = read_npz(source)
    else:
        records = _read_text_format(source, kind, separator, columns or {}, encoding)
    if source.rows is not None:
        records = records.part(source.rows)
    return records.head(max_rows)


def _read_text_format(
    source: Source, kind: str | None, separator: str | None, columns: Mapping[str, str], encoding: str | None
) -> Records:
    decoded = decode_text(source, encoding)
    text = decoded.text
    kind = kind or _text_format(source, text, separator)
    if kind == "jsonl":
        records = read_jsonl(source.path, text)
    elif kind == "json":
        records = read_json(source.path, text)
    elif kind in ("csv", "tsv"):
        records = read_delimited(source.path, text, kind, columns)
    elif kind == "separated":
        if separator is None:
            raise ConfigError(
                "data.format is 'separated', but there is no data.separator", hint="--set data.separator='||'"
            )
        records = _read_separated(source.path, text, separator)
    else:
        records = _read_text(source.path, text)
    return replace(records, notes=(*((decoded.note,) if decoded.note else ()), *records.notes))


def detect_format(source: Source, *, separator: str | None = None) -> str:
    """The format's name, from the content; the suffix breaks ties."""
    return binary_format(source) or _text_format(source, decode_text(source).text, separator)


def binary_format(source: Source) -> str | None:
    """parquet or npz by their first bytes; None for anything else, which must then be text."""
    if source.raw.startswith(b"PAR1"):
        return "parquet"
    if source.raw.startswith(b"PK\x03\x04"):
        # Spreadsheets are zip archives too; arrays are told by the names inside.
        if source.suffix != ".npz" and b".npy" not in source.raw:
            raise DataError(
                f"{source.path}: is a zip archive, such as a spreadsheet, not rows of data",
                hint="Export it as CSV or JSONL, or unpack it.",
            )
        return "npz"
    refuse_known_binary(source)
    suffix = DATA_SUFFIXES.get(source.suffix)
    if suffix in ("parquet", "npz"):
        magic = "PAR1" if suffix == "parquet" else "PK"
        raise DataError(
            f"{source.path}: is not a {suffix} file (it does not begin with {magic})",
            hint="Was it cut short, or renamed?",
        )
    return None


def _text_format(source: Source, text: str, separator: str | None) -> str:
    suffix = DATA_SUFFIXES.get(source.suffix)
    lines = [line for line in text.lstrip()[:_PROBE].split("\n") if line.strip()]
    first = lines[0].lstrip()
    if separator is not None and (separator in first or first[0] not in "{["):
        return "separated"
    if first[0] in "{[":
        return _json_kind(text, first, suffix)
    if "\t" not in first and looks_like_header(first.split(",")):
        return "csv"
    # The last line of a long text may be cut by the probe.
    probe = lines[:-1] if len(text) > _PROBE else lines
    tabs = {line.count("\t") for line in probe[:100]}
    if len(tabs) == 1 and tabs != {0}:
        return "tsv"
    if suffix in ("csv", "tsv", "text"):
        return suffix
    if suffix in ("json", "jsonl"):
        line = text[: text.index(first)].count("\n") + 1
        raise DataError(
            f"{source.path}, line {line}: expected JSON, found {first[:40]!r}",
            hint="--set data.format=text reads it as plain text.",
        )
    return "text"


def _json_kind(text: str, first: str, suffix: str | None) -> str:
    try:
        value = json.loads(first)
    except json.JSONDecodeError:
        # A list or object over several lines; or a broken line of JSONL; or text that happens to begin with a bracket.
        if suffix in ("csv", "tsv", "text", "jsonl"):
            return suffix
        return (
            "json"
            if suffix == "json" or first.rstrip() in ("{", "[", "[{") or _parses(text)
            else "jsonl"
            if first[0] == "{"
            else "json"
        )
    if isinstance(value, dict):
        alone = not text.strip().partition("\n")[2].strip()
        return "json" if alone and isinstance(value.get("data"), list) else "jsonl"
    if isinstance(value, list) and suffix != "jsonl":
        return "json"
    return suffix or "text"


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return False
    return True


def _read_text(path: Path, text: str) -> Records:
    lines = text.split("\n")
    kept = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return Records(
        path, "text", ("text",), [{"text": line} for _, line in kept], [number for number, _ in kept], stream=text
    )


def _read_separated(path: Path, text: str, separator: str) -> Records:
    rows, numbers = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        before, found, after = line.partition(separator)
        if not found:
            raise DataError(
                f"{path}, line {number}: no separator {separator!r} in {line[:60]!r}",
                hint="Every line is `input<separator>reference`.",
            )
        rows.append({"input": before, "reference": after})
        numbers.append(number)
    return Records(path, "separated", ("input", "reference"), rows, numbers)
