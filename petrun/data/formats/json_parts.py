"""Shared parts of JSON and JSON lines: read rows as objects, and say why JSON cannot be read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from petrun.data.formats.format import FileContent
from petrun.errors import DataError
from petrun.typing import JsonObject

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def first_value(content: FileContent) -> object:
    """Read the JSON value in the first line. Raises json.JSONDecodeError."""
    return json.loads(content.first_line)


def is_whole_json(content: FileContent) -> bool:
    """Return whether the text is one JSON value, or its first line only opens a list or an object."""
    if content.first_line.rstrip() in ("{", "[", "[{"):
        return True
    try:
        json.loads(content.text)
    except (json.JSONDecodeError, RecursionError):
        return False
    return True


def holds_data_list(content: FileContent, value: dict[str, object]) -> bool:
    """Return whether the object in the first line is the full text and holds a list of rows under "data"."""
    alone = len(content.lines) == 1 and not content.text.strip().partition("\n")[2].strip()
    return alone and isinstance(value.get("data"), list)


def expected_json(content: FileContent) -> DataError:
    """Return the error for a file with a suffix of JSON whose text does not begin as JSON."""
    first = content.first_line
    line = content.text[: content.text.index(first)].count("\n") + 1
    return DataError(
        f"{content.source.path}, line {line}: expected JSON, found {first[:40]!r}",
        hint="--set data.format=text reads it as plain text.",
    )


def is_cut_off(error: json.JSONDecodeError, text: str) -> bool:
    """Return whether the JSON ends too early, and is not wrong elsewhere."""
    at_string = text[error.pos : error.pos + 1] == '"'
    return error.pos >= len(text.rstrip()) - 1 or (at_string and _STRING.match(text, error.pos) is None)


def unique_keys(where: str) -> Callable[[list[tuple[str, object]]], JsonObject]:
    """Return an object_pairs_hook that raises DataError for a key that occurs twice."""

    def build(pairs: list[tuple[str, object]]) -> JsonObject:
        row = dict(pairs)
        if len(row) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{where}: the key '{twice}' stands twice in one object")
        return row

    return build


def as_row(row: object, where: str) -> JsonObject:
    """Return the object of one row. Raises DataError for any other value."""
    if not isinstance(row, dict):
        raise DataError(
            f"{where}: a row must be an object with named columns, found {type_name(row)}",
            hint='For example {"text": "...", "label": 0}.',
        )
    if not row:
        raise DataError(f"{where}: the object is empty")
    return row


def all_columns(rows: list[JsonObject]) -> tuple[str, ...]:
    """Return the columns of all rows, in the order of their first occurrence."""
    return tuple(dict.fromkeys(name for row in rows for name in row))


def type_name(value: object) -> str:
    names = {
        "list": "a list",
        "dict": "an object",
        "str": "a string",
        "int": "a number",
        "float": "a number",
        "bool": "true/false",
        "NoneType": "null",
    }
    return names[type(value).__name__]
