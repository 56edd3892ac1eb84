"""Read JSON: a list of objects, or an object that holds such a list under "data"."""

from __future__ import annotations

import json
import re
from pathlib import Path

from petrun.data.formats.format import FileContent, Format
from petrun.data.formats.json_parts import (
    all_columns,
    as_row,
    expected_json,
    first_value,
    is_cut_off,
    type_name,
    unique_keys,
)
from petrun.data.formats.records import Records
from petrun.errors import DataError
from petrun.typing import JsonObject

_SPACE = re.compile(r"[ \t\n]*")
_LIST = "data"
"""The key of an object under which its rows are."""
_ROW = "row"


def recognise_json(content: FileContent) -> bool:
    """Return whether the text is JSON and not JSON lines. Where the first line alone is not JSON, the suffix may name another format."""
    if not content.begins_as_json:
        return False
    try:
        first_value(content)
    except json.JSONDecodeError:
        return content.suffix_format in ("", JSON.name)
    return True


def read_json(content: FileContent) -> Records:
    """Read a list of objects, or an object that holds such a list under "data", whose other keys are named in a note.

    Raises: DataError naming the line where the JSON breaks off, or the row that is not an object or has a key twice.
    """
    path, text = content.source.path, content.text
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        cut = is_cut_off(error, text)
        hint = "The file looks cut off: write or download it again." if cut else ""
        raise DataError(
            f"{path}, line {error.lineno}: not JSON: {error.msg} (column {error.colno})", hint=hint
        ) from error
    except RecursionError as error:
        raise DataError(f"{path}: JSON nested too deeply") from error
    start = _skip_space(text, 0)
    notes: tuple[str, ...] = ()
    if isinstance(whole, dict):
        keys = ", ".join(list(whole)[:10])
        if not isinstance(whole.get(_LIST), list):
            raise DataError(
                f"{path}: expected a list of rows, found an object with the keys {keys}",
                hint='Rows are a list of objects, {"data": [...]}, or one object a line (JSONL).',
            )
        start = _values(text, start, path)[_LIST]
        notes = (
            (f'{path}: the rows are those under "data"; of the keys {keys} no other is read',)
            if whole.keys() - {_LIST}
            else ()
        )
        whole = whole[_LIST]
    if not isinstance(whole, list):
        raise DataError(f"{path}: expected a list of rows, found {type_name(whole)}")
    if not whole:
        raise DataError(f"{path}: the list holds no rows", hint="A data file needs at least one row.")
    rows, numbers = _rows(text, start, len(whole), path)
    return Records(path, all_columns(rows), rows, numbers, notes=notes)


def _values(text: str, start: int, path: Path) -> dict[str, int]:
    """Return each key of the object at `start`, and where its value begins. Raises DataError for a key that stands twice."""
    decoder, at, found = json.JSONDecoder(), _skip_space(text, start + 1), dict[str, int]()
    while text[at] != "}":
        key, at = decoder.raw_decode(text, at)
        # Behind the colon.
        at = _skip_space(text, _skip_space(text, at) + 1)
        if key in found:
            raise DataError(f"{path}: the key '{key}' stands twice in the object that holds the rows")
        found[key] = at
        at = _next(text, decoder.raw_decode(text, at)[1])
    return found


def _rows(text: str, start: int, count: int, path: Path) -> tuple[list[JsonObject], list[int]]:
    """Return the objects of the list at `start`, and the line on which each begins. Raises DataError naming it."""
    decoder = json.JSONDecoder(object_pairs_hook=unique_keys(_ROW))
    at = start + 1
    line, seen = text.count("\n", 0, at) + 1, at
    rows: list[JsonObject] = []
    numbers: list[int] = []
    for _ in range(count):
        at = _skip_space(text, at)
        line += text.count("\n", seen, at)
        seen, where = at, f"{path}, line {line}"
        try:
            row, at = decoder.raw_decode(text, at)
        except DataError as error:
            raise DataError(f"{where}{error.message.removeprefix(_ROW)}", hint=error.hint) from error
        rows.append(as_row(row, where))
        numbers.append(line)
        at = _next(text, at)
    return rows, numbers


def _next(text: str, at: int) -> int:
    """Return where the next element of a list or an object begins, or its closing bracket."""
    at = _skip_space(text, at)
    return _skip_space(text, at + 1) if text[at] == "," else at


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


JSON = Format(
    name="json",
    suffixes=(".json",),
    read=read_json,
    recognise=recognise_json,
    mismatch=expected_json,
)
