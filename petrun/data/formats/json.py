"""JSON lines and JSON lists -> rows, with the line number of every row."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from petrun.data.formats.records import Records
from petrun.errors import DataError

_SPACE = re.compile(r"[ \t\n]*")


def read_jsonl(path: Path, text: str) -> Records:
    """One JSON object a line; blank lines are skipped.

    Raises: DataError naming the line that is cut off, is not JSON, or is not an object.
    """
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    lines = text.split("\n")
    last = max(number for number, line in enumerate(lines, 1) if line.strip())
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line, object_pairs_hook=_unique(where))
        except json.JSONDecodeError as error:
            cut = number == last and _cut_off(error, line)
            hint = (
                "The file looks cut off: write or download it again."
                if cut
                else "In JSONL every line is one whole JSON object."
            )
            raise DataError(f"{where}: not JSON: {error.msg} (column {error.colno})", hint=hint) from error
        except RecursionError as error:
            raise DataError(f"{where}: JSON nested too deeply") from error
        rows.append(_as_row(row, where))
        numbers.append(number)
    return Records(path, "jsonl", _columns(rows), rows, numbers)


def read_json(path: Path, text: str) -> Records:
    """A list of objects, or an object that holds such a list under "data".

    Raises: DataError naming the line where the JSON breaks off, or the row that is not an object.
    """
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        cut = _cut_off(error, text)
        hint = "The file looks cut off: write or download it again." if cut else ""
        raise DataError(
            f"{path}, line {error.lineno}: not JSON: {error.msg} (column {error.colno})", hint=hint
        ) from error
    except RecursionError as error:
        raise DataError(f"{path}: JSON nested too deeply") from error
    start = 0
    if isinstance(whole, dict):
        if not isinstance(whole.get("data"), list):
            keys = ", ".join(list(whole)[:10])
            raise DataError(
                f"{path}: expected a list of rows, found an object with the keys {keys}",
                hint='Rows are a list of objects, {"data": [...]}, or one object a line (JSONL).',
            )
        found = re.search(r'"data"\s*:\s*', text)
        start = found.end() if found else 0
        whole = whole["data"]
    if not isinstance(whole, list):
        raise DataError(f"{path}: expected a list of rows, found {_type_name(whole)}")
    if not whole:
        raise DataError(f"{path}: the list holds no rows", hint="A data file needs at least one row.")
    numbers = _row_lines(text, start, len(whole))
    rows = [_as_row(row, f"{path}, line {numbers[i]}") for i, row in enumerate(whole)]
    return Records(path, "json", _columns(rows), rows, numbers)


def _cut_off(error: json.JSONDecodeError, text: str) -> bool:
    """Whether the JSON ends too early, rather than being wrong somewhere."""
    return error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated string")


def _row_lines(text: str, start: int, count: int) -> list[int]:
    """The line on which each element of the list at `start` begins; json.loads does not tell."""
    decoder = json.JSONDecoder()
    at = text.index("[", start) + 1
    line, seen = text.count("\n", 0, at) + 1, at
    numbers: list[int] = []
    for _ in range(count):
        at = _skip_space(text, at)
        line += text.count("\n", seen, at)
        seen = at
        numbers.append(line)
        _, at = decoder.raw_decode(text, at)
        at = _skip_space(text, at)
        at += text[at : at + 1] == ","
    return numbers


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _unique(where: str) -> Any:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{where}: the key '{twice}' stands twice in one object")
        return row

    return build


def _as_row(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(
            f"{where}: a row must be an object with named columns, found {_type_name(row)}",
            hint='For example {"text": "...", "label": 0}.',
        )
    if not row:
        raise DataError(f"{where}: the object is empty")
    return row


def _columns(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Columns of all rows, in the order they first appear."""
    return tuple(dict.fromkeys(name for row in rows for name in row))


def _type_name(value: Any) -> str:
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
