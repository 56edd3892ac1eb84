"""Read comma-separated values with quoted cells. The delimiter may be a semicolon or a tab where that yields a known header."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from petrun.data.formats.delimited_parts import Delimiter, is_header, looks_like_header, read_table
from petrun.data.formats.format import FileContent, Format
from petrun.data.formats.records import Records
from petrun.errors import DataError

_COMMA = Delimiter(name="commas", hint='A cell with a comma must stand in quotes: "a, b".')
_CELL_LIMIT = 2**31 - 1


def recognise_csv(content: FileContent) -> bool:
    """Return whether the first line looks like a header with commas."""
    first = content.first_line
    return not content.begins_as_json and "\t" not in first and looks_like_header(first.split(","))


def read_csv(content: FileContent) -> Records:
    """Read the rows. Raises DataError for an open quote, and as `read_table`."""
    return read_table(content, list(_table(content)), _COMMA)


def _table(content: FileContent) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of every line. Raises DataError for an open quote."""
    text, columns = content.text, content.columns
    first = text.lstrip("\n").partition("\n")[0]
    delimiter = ","
    for other in (";", "\t"):
        # Spreadsheets in many countries write semicolons: accepted where that yields known column names.
        if other in first and is_header([c.strip('"') for c in first.split(other)], columns) and "," not in first:
            delimiter = other
    previous = csv.field_size_limit(_CELL_LIMIT)
    ended = False

    def lines() -> Iterator[str]:
        nonlocal ended
        yield from io.StringIO(text)
        ended = True

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    start = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        # The reader asks for a line after the last one only where a quote is open.
        what = "a quote is opened and never closed" if ended else str(error)
        raise DataError(
            f"{content.source.path}, line {start}: {what}",
            hint='In CSV a quote inside a quoted cell is doubled: "he said ""no""".',
        ) from error
    finally:
        csv.field_size_limit(previous)


CSV = Format(name="csv", suffixes=(".csv",), read=read_csv, recognise=recognise_csv)
