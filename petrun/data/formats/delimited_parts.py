"""Read tables of delimited cells, for CSV and TSV.

A first line that names a known column is a header, unless that name occurs again below it; without a header the file must have
two columns, text and label in either order: the one with fewer different values is the label. Columns of a file without a header
can be named by their number as well: data.columns.label=column_1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from petrun.data.formats.format import FileContent
from petrun.data.formats.records import Records
from petrun.data.rows.kinds import KNOWN_COLUMNS
from petrun.errors import DataError

_NAME = re.compile(r"[^\W\d][\w.-]{0,30}")
"""A name that a column may have, in any script."""
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_MANY_VALUES = 8
"""Number of different values of a text column from which on a column with half as many is taken for the label."""
_NUMBERED_COLUMN = re.compile(r"column_[1-9]\d*")


@dataclass(frozen=True, kw_only=True)
class Delimiter:
    """The delimiter between cells, for messages."""

    name: str
    hint: str
    """A likely cause of a wrong number of cells."""


def read_table(content: FileContent, table: list[tuple[int, list[str]]], delimiter: Delimiter) -> Records:
    """Convert (line, cells) of every line to rows; every cell is a string.

    Raises: DataError for duplicate or missing headers, and for a row with the wrong number of cells.
    """
    path, columns = content.source.path, content.columns
    number, first = table[0]
    if is_header(first, columns) and not _recurs(first, table[1:], columns):
        header, body = _header(path, number, first), table[1:]
        if not body:
            raise DataError(f"{path}: holds a header but no rows", hint=f"Columns found: {', '.join(header)}")
    elif any(_NUMBERED_COLUMN.fullmatch(name) for name in columns.values()):
        header, body = tuple(f"column_{i}" for i in range(1, len(first) + 1)), table
    elif len(first) == 2:
        _refuse_hidden_header(path, number, table)
        header, body = _header_of_two(path, number, table), table
    else:
        raise _no_header(path, number, first, delimiter)
    rows = []
    for line, cells in body:
        if len(cells) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(cells)} cell{'s' * (len(cells) != 1)}, expected {len(header)} ({', '.join(header)})",
                hint=delimiter.hint,
            )
        rows.append(dict(zip(header, cells, strict=True)))
    swapped = body is table and header == ("label", "text")
    return Records(
        path,
        tuple(header),
        rows,
        [line for line, _ in body],
        notes=(f"{path}: has no header; column 1 is read as the label, column 2 as the text",) if swapped else (),
    )


def _no_header(path: Path, number: int, first: list[str], delimiter: Delimiter) -> DataError:
    count = f"{len(first)} column{'s' * (len(first) != 1)} between {delimiter.name}"
    cells = ", ".join(repr(cell[:30]) for cell in first[:6])
    return DataError(
        f"{path}, line {number}: {count} and no header that names a known column",
        hint=f"First line: {cells}. Without a header a file has two columns, text and label; "
        "columns are named by their place, --set data.columns.text=column_1, and a header's other names by themselves.",
    )


def is_header(cells: list[str], columns: Mapping[str, str]) -> bool:
    names = {cell.strip() for cell in cells}
    return bool(names & set(columns.values())) or bool({name.lower() for name in names} & KNOWN_COLUMNS)


def _recurs(first: list[str], later: list[tuple[int, list[str]]], columns: Mapping[str, str]) -> bool:
    """Return whether the names in the first line occur again below: then they are values, such as the class `question`."""
    named = [i for i, cell in enumerate(first) if is_header([cell], columns)]
    return all(any(cells[i : i + 1] == [first[i]] for _, cells in later) for i in named)


def looks_like_header(cells: list[str]) -> bool:
    """Return whether cells are two or more names, one of them a known column: then a file with any suffix is read as a table."""
    names = [cell.strip().strip('"') for cell in cells]
    return (
        len(names) > 1
        and all(_NAME.fullmatch(name) for name in names)
        and any(name.lower() in KNOWN_COLUMNS for name in names)
    )


def _header(path: Path, number: int, cells: list[str]) -> tuple[str, ...]:
    names = [cell.strip() for cell in cells]
    for position, name in enumerate(names, 1):
        if names.count(name) > 1 and name:
            raise DataError(
                f"{path}, line {number}: the header names the column '{name}' twice",
                hint=f"Columns found: {', '.join(names)}",
            )
        if not name:
            # pandas writes its index under an empty name; it is a column like any other.
            names[position - 1] = f"column_{position}"
    return tuple(names)


def _refuse_hidden_header(path: Path, number: int, table: list[tuple[int, list[str]]]) -> None:
    """Refuse a header of unknown names such as `review<TAB>sentiment`, which would become a row with a class of its own."""
    first = [cell.strip() for cell in table[0][1]]
    if len(table) < 3 or not all(map(_NAME.fullmatch, first)):
        return
    columns = [[cells[i].strip() for _, cells in table[1:] if len(cells) == 2] for i in (0, 1)]
    # Labels have fewer different values than texts.
    for i in sorted((1, 0), key=lambda i: len(set(columns[i]))):
        later, other = columns[i], 1 - i
        recurring = len(set(later)) < len(later) or all(map(_NUMBER.fullmatch, later))
        if recurring and first[i] not in later:
            text, label = first[other], first[i]
            raise DataError(
                f"{path}, line {number}: looks like a header with the unknown columns '{first[0]}' and '{first[1]}'",
                hint=f"Classes: --set data.columns.text={text} --set data.columns.label={label}. A question and its answer: --set "
                f"data.columns.prompt={first[0]} --set data.columns.completion={first[1]}, of petrun data --source {first[0]} "
                f"--target {first[1]}.",
            )


def _header_of_two(path: Path, number: int, table: list[tuple[int, list[str]]]) -> tuple[str, str]:
    """Find the label among two columns: the one with clearly fewer different values; in a short table the one of numbers, else the
    one with fewer values or of single words.

    Raises: DataError with both readings, where these signs contradict each other, or nothing tells the columns apart.
    """
    pairs = [cells for _, cells in table if len(cells) == 2]
    columns = [[cells[i].strip() for cells in pairs] for i in (0, 1)]
    distinct = [len(set(column)) for column in columns]
    numbers = [all(_NUMBER.fullmatch(cell) for cell in column) for column in columns]
    words = [not any(" " in cell for cell in column) for column in columns]
    fewer, numeric, word = distinct[0] - distinct[1], numbers[1] - numbers[0], words[1] - words[0]
    if max(distinct) >= max(_MANY_VALUES, 2 * min(distinct)):
        votes = [fewer]
    else:
        votes = [numeric] if numeric else [vote for vote in (fewer, word) if vote]
    if votes and all(vote > 0 for vote in votes):
        return ("text", "label")
    if votes and all(vote < 0 for vote in votes):
        return ("label", "text")
    first, second = (repr(cell.strip()[:30]) for cell in pairs[0])
    raise DataError(
        f"{path}, line {number}: no header, and which of the two columns is the label is not clear: text {first} and label {second} "
        f"({distinct[1]} classes), or label {first} and text {second} ({distinct[0]} classes)",
        hint="Write the line `text<TAB>label` or `label<TAB>text` above the rows, or --set data.columns.text=column_1 "
        "--set data.columns.label=column_2 (or the other way round).",
    )
