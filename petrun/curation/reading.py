"""Read the rows of data files as a stream, so that files larger than memory pass. A line that cannot be read does not hide the others.

JSON lines in UTF-8 are read block by block; other formats, and compressed files, are read whole by petrun/data/formats.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from petrun import console
from petrun.data.chat.messages import usual_order
from petrun.data.formats.encoding import find_encoding
from petrun.data.formats.folder import read_sources
from petrun.data.formats.json_parts import as_row, unique_keys
from petrun.data.formats.jsonl import JSONL
from petrun.data.formats.source import Source
from petrun.data.formats.table import detect_format, read_records
from petrun.data.rows.bad_rows import MOST_NAMED
from petrun.errors import DataError
from petrun.typing import JsonObject

STOP, SKIP = "stop", "skip"
_BOM = b"\xef\xbb\xbf"
_UTF8 = ("utf-8", "utf_8", "utf-8-sig", "utf_8_sig")


@dataclass(frozen=True, kw_only=True)
class DataRow:
    """One row of a file, and where it stands."""

    file: str
    line: int
    """Its line; where a format has no lines, its number, from 1."""
    cells: JsonObject = field(repr=False)
    unit: str = "line"
    """The word before `line` in messages."""

    @property
    def where(self) -> str:
        """Name the row in messages: 'rows.jsonl, line 7'."""
        return f"{self.file}, {self.unit} {self.line}"


@dataclass(frozen=True, kw_only=True)
class UnreadableRow:
    """A line that is no row."""

    file: str
    line: int
    problem: str
    """Why, without file and line."""
    text: str = field(repr=False)
    unit: str = "line"

    @property
    def where(self) -> str:
        """Name the line in messages."""
        return f"{self.file}, {self.unit} {self.line}"


@dataclass(frozen=True)
class RowFiles:
    """The rows of some files, which can be read several times."""

    paths: Sequence[str]
    """Files, folders of files, or some rows of a file (`rows.jsonl#500`)."""
    on_bad_row: str = STOP
    """`stop`: up to twenty lines that cannot be read are named in an error; `skip`: they are left out."""
    encoding: str | None = None
    """Encoding of text files; None: UTF-8, or detected."""
    columns: tuple[str, ...] = ()
    """Columns that the user names, by which the header of a table is recognised."""
    _told: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @cached_property
    def sources(self) -> list[Source]:
        """The files. Raises DataError where one is missing, unreadable or empty."""
        return [source for path in self.paths for source in read_sources(path)]

    @property
    def inputs(self) -> list[Path]:
        """The files that are read, which no result may replace."""
        return [source.path for source in self.sources]

    def place(self, row: DataRow) -> tuple[int, int]:
        """Return the number of a row's file among these, and its line."""
        return self._numbers[row.file], row.line

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {str(source.path): i for i, source in enumerate(self.sources)}

    def digests(self) -> list[JsonObject]:
        """Return name, rows and digest of every file, for reports."""
        return [
            {"file": str(source.path), "sha256": source.digest, **({"rows": str(source.rows)} if source.rows else {})}
            for source in self.sources
        ]

    def __iter__(self) -> Iterator[DataRow]:
        return self.rows()

    def rows(self, unreadable: Callable[[UnreadableRow], None] | None = None) -> Iterator[DataRow]:
        """Yield the rows in order. `unreadable` is called with each line that is no row, where such lines are left out.

        Raises: DataError naming up to twenty of them where they are not left out, and where no row can be read.
        """
        bad: list[UnreadableRow] = []
        read = 0
        for item in self._items():
            if isinstance(item, DataRow):
                read += 1
                # The rows before the end are of no use where an error is certain.
                if not bad or self.on_bad_row == SKIP:
                    yield item
                continue
            if self.on_bad_row == SKIP:
                if unreadable is not None:
                    unreadable(item)
                if len(bad) < MOST_NAMED:
                    bad.append(item)
                continue
            bad.append(item)
            if len(bad) == MOST_NAMED:
                break
        if bad and (self.on_bad_row != SKIP or not read):
            raise _unreadable_error(bad)

    def _items(self) -> Iterator[DataRow | UnreadableRow]:
        for source in self.sources:
            self._tell(source.note)
            if _is_line_by_line(source, self.encoding):
                yield from self._lines(source)
            else:
                yield from self._table(source)

    def _tell(self, note: str) -> None:
        """Print on standard error, once, how a file was read."""
        if note and note not in self._told:
            self._told.add(note)
            console.print_to_stderr(f"note: {note}")

    def _lines(self, source: Source) -> Iterator[DataRow | UnreadableRow]:
        """Yield the rows of JSON lines, and what stands in the place of a row."""
        if source.rows is None:
            yield from _json_lines(source)
            return
        first, stop, count = source.rows.start, source.rows.stop, 0
        for item in _json_lines(source):
            if count == stop:
                return
            if count >= first:
                yield item
            count += 1
        self._tell(source.rows.note(source.path, count))

    def _table(self, source: Source) -> Iterator[DataRow]:
        """Yield the rows of a file of any other format. Raises DataError."""
        records = read_records(source, encoding=self.encoding, columns={name: name for name in self.columns})
        for note in records.notes:
            self._tell(note)
        if records.arrays:
            raise DataError(f"{source.path}: holds named arrays, not rows of text", hint="These commands read text.")
        for start, stop in records.chunks():
            for i, cells in enumerate(records.loaded(start, stop).rows, start):
                if records.sorted_keys:
                    cells = {name: usual_order(cell) for name, cell in cells.items()}
                yield DataRow(file=str(source.path), line=records.line(i), cells=cells, unit=records.unit)


def _unreadable_error(bad: Sequence[UnreadableRow]) -> DataError:
    named = [f"{row.where}: {row.problem}" for row in bad]
    hint = "In JSONL every line is one whole JSON object. --on-bad-row skip leaves such lines out."
    if len(bad) == 1:
        return DataError(named[0], hint=hint)
    count = f"{len(bad)} rows" if len(bad) < MOST_NAMED else f"{MOST_NAMED} rows, and perhaps more,"
    return DataError("\n  ".join([f"{count} cannot be read:", *named]), hint=hint)


def _is_line_by_line(source: Source, encoding: str | None) -> bool:
    try:
        return detect_format(source, encoding=encoding) is JSONL and find_encoding(source, encoding)[0] in _UTF8
    except DataError:
        # Where a few lines are not UTF-8, each of them is named; a file of which most are not is in another encoding.
        if source.suffix not in JSONL.suffixes or not _mostly_utf8(source):
            raise
        return True


def _mostly_utf8(source: Source) -> bool:
    wrong = count = 0
    for _, block in source.blocks():
        for line in block.split(b"\n"):
            count += bool(line.strip())
            wrong += "\ufffd" in line.decode("utf-8", "replace")
    return 2 * wrong < count


def _json_lines(source: Source) -> Iterator[DataRow | UnreadableRow]:
    name, number = str(source.path), 0
    # Built once: json.loads builds a decoder for every call that names a hook.
    decode = json.JSONDecoder(object_pairs_hook=unique_keys(name)).decode
    for offset, block in source.blocks():
        lines = block.split(b"\n")
        # What follows the last line feed is no line of its own.
        for line in lines[:-1] if block.endswith(b"\n") else lines:
            number += 1
            raw = line[len(_BOM) :] if number == 1 and offset == 0 and line.startswith(_BOM) else line
            if not raw.strip():
                continue
            try:
                yield DataRow(file=name, line=number, cells=_row(decode, raw, name))
            except (ValueError, RecursionError, DataError) as error:
                shown = raw.decode("utf-8", "backslashreplace")
                yield UnreadableRow(file=name, line=number, problem=_problem(error), text=shown)


def _row(decode: Callable[[str], object], raw: bytes, where: str) -> JsonObject:
    text = raw.decode("utf-8")
    row = as_row(decode(text), where)
    if "\\ud" in text or "\\uD" in text:
        # Raises UnicodeEncodeError for half of a surrogate pair, which no file in UTF-8 can hold.
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    return row


def _problem(error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "holds half of a surrogate pair, which is no character"
    if isinstance(error, UnicodeDecodeError):
        return f"byte 0x{error.object[error.start]:02x} is not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} (column {error.colno})"
    if isinstance(error, RecursionError):
        return "JSON nested too deeply"
    # `where: what`, of which the place is said by the row itself.
    return error.message.partition(": ")[2] if isinstance(error, DataError) else str(error)
