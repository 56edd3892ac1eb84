"""Write files of rows, in the format that the name's suffix says: the counterpart of petrun/data/formats.

A file appears complete or not at all. Rows come as a stream; where a format must know all columns first (csv, tsv, parquet, mindrecord),
they wait in a temporary file.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from petrun.errors import ConfigError, DataError, SetupError
from petrun.tensors import atomic_file
from petrun.typing import JsonObject

_BATCH_ROWS = 4096
Rows: TypeAlias = Callable[[], Iterator[JsonObject]]


@dataclass(frozen=True, kw_only=True)
class RowFormat:
    """How rows are written as one format."""

    write: Callable[[Path, Sequence[str], Rows], None]
    """(file to write, all columns, function that reads the rows from the first on). Raises DataError for values that it cannot hold."""


def json_line(cells: Mapping[str, object]) -> str:
    """Return a row as one line of JSON, with its line feed. Values that JSON does not have, such as dates, become text."""
    return json.dumps(cells, ensure_ascii=False, default=str) + "\n"


class RowWriter:
    """Takes rows one by one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.columns: dict[str, None] = {}
        self.count = 0

    def write(self, cells: JsonObject) -> None:
        """Add a row."""
        if not cells.keys() <= self.columns.keys():
            self.columns |= dict.fromkeys(cells)
        self._file.write(json_line(cells).encode())
        self.count += 1


def check_row_suffix(flag: str, path: str | None) -> None:
    """Raises ConfigError where the suffix of a file to write names no format of rows."""
    if path is None or Path(path).suffix.lower() in _SUFFIXES:
        return
    raise ConfigError(
        f"{flag} {path}: its suffix names no format that rows are written in", hint=f"Known: {', '.join(_SUFFIXES)}."
    )


@contextmanager
def row_writer(path: Path) -> Iterator[RowWriter]:
    """Yield a writer of rows; on success `path` holds them. Raises OutputError; DataError for values that the format cannot hold."""
    kind = _SUFFIXES[path.suffix.lower()]
    if kind is None:
        with atomic_file(path) as (file, _):
            yield RowWriter(file)
        return
    with tempfile.TemporaryFile(dir=path.parent) as spool:
        writer = RowWriter(spool)
        yield writer

        def rows() -> Iterator[JsonObject]:
            spool.seek(0)
            return (json.loads(line) for line in spool)

        kind.write(path, tuple(writer.columns), rows)


def _write_json(path: Path, columns: Sequence[str], rows: Rows) -> None:
    with atomic_file(path) as (file, _):
        file.write(b"[")
        for number, row in enumerate(rows()):
            file.write((",\n" if number else "\n").encode() + json_line(row).rstrip("\n").encode())
        file.write(b"\n]\n")


def _cell(value: object) -> str:
    """Return a value as the text of a cell; lists and objects as JSON, which petrun reads again."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _write_csv(path: Path, columns: Sequence[str], rows: Rows) -> None:
    with atomic_file(path) as (file, _):
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        table = csv.writer(text, lineterminator="\n")
        table.writerow(columns)
        for row in rows():
            table.writerow([_cell(row.get(name)) for name in columns])
        text.detach()


def _write_tsv(path: Path, columns: Sequence[str], rows: Rows) -> None:
    with atomic_file(path) as (file, _):
        file.write(("\t".join(columns) + "\n").encode())
        for number, row in enumerate(rows(), 1):
            cells = [_cell(row.get(name)) for name in columns]
            for name, cell in zip(columns, cells, strict=True):
                if any(sign in cell for sign in "\t\n\r"):
                    raise DataError(
                        f"{path}, row {number}: column '{name}' holds a tab or a line end, which TSV has no form for",
                        hint="Write .csv or .jsonl.",
                    )
            file.write(("\t".join(cells) + "\n").encode())


def _write_parquet(path: Path, columns: Sequence[str], rows: Rows) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise SetupError(
            f"{path}: writing parquet needs the package pyarrow", hint="pip install 'petrun[parquet]'"
        ) from error
    as_text = {name for row in rows() for name, value in row.items() if not _has_one_type(value)}

    def tables() -> Iterator[pyarrow.Table]:
        for batch in _batches(rows()):
            cells = {name: [row.get(name) for row in batch] for name in columns}
            yield pyarrow.table({n: [_cell(v) or None for v in vs] if n in as_text else vs for n, vs in cells.items()})

    try:
        # The type of a column is known only after its last row.
        schema = pyarrow.unify_schemas([table.schema for table in tables()], promote_options="permissive")
        with atomic_file(path) as (file, _), pyarrow.parquet.ParquetWriter(file, schema) as writer:
            for table in tables():
                writer.write_table(_with_schema(table, schema))
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{path}: a column holds values of types that parquet cannot hold together: {error}",
            hint="Write .jsonl, or make the column's values one type.",
        ) from error


def _with_schema(table: Any, schema: Any) -> Any:
    """Return an Arrow table with the types that its columns have over all rows; messages get the keys of all others, null."""
    import pyarrow

    return pyarrow.table(
        {name: pyarrow.array(table[name].to_pylist(), schema.field(name).type) for name in schema.names}
    )


def _has_one_type(value: object) -> bool:
    """Return whether rows share the type of a value for certain: a text, a number, a list of texts or of messages of texts alone.

    Tools, calls and other objects have other keys in every row; they are written as JSON text, which petrun reads as what they are.
    """
    if isinstance(value, list):
        return all(
            isinstance(item, str)
            or (isinstance(item, list) and all(isinstance(text, str) for text in item))
            or (isinstance(item, dict) and all(isinstance(inner, str) for inner in item.values()))
            for item in value
        )
    return not isinstance(value, dict)


def _batches(rows: Iterable[JsonObject]) -> Iterator[list[JsonObject]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, _BATCH_ROWS)):
        yield batch


def _write_mindrecord(path: Path, columns: Sequence[str], rows: Rows) -> None:
    from petrun.data.formats.mindrecord import write_mindrecord

    write_mindrecord(path, columns, _batches(rows()))


_SUFFIXES: dict[str, RowFormat | None] = {
    ".jsonl": None,
    ".ndjson": None,
    ".json": RowFormat(write=_write_json),
    ".csv": RowFormat(write=_write_csv),
    ".tsv": RowFormat(write=_write_tsv),
    ".parquet": RowFormat(write=_write_parquet),
    ".mindrecord": RowFormat(write=_write_mindrecord),
}
"""Suffix -> how it is written; None: JSON lines, as they come."""
