"""Read JSON: a list of objects, or an object that holds such a list under "data"."""

from __future__ import annotations

import json
import re

from petrun.data.formats.format import FileContent, Format
from petrun.data.formats.json_parts import all_columns, as_row, expected_json, first_value, is_cut_off, type_name
from petrun.data.formats.records import Records
from petrun.errors import DataError

_SPACE = re.compile(r"[ \t\n]*")


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
    """Read a list of objects, or an object that holds such a list under "data".

    Raises: DataError naming the line where the JSON breaks off, or the row that is not an object.
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
        raise DataError(f"{path}: expected a list of rows, found {type_name(whole)}")
    if not whole:
        raise DataError(f"{path}: the list holds no rows", hint="A data file needs at least one row.")
    numbers = _row_lines(text, start, len(whole))
    rows = [as_row(row, f"{path}, line {numbers[i]}") for i, row in enumerate(whole)]
    return Records(path, all_columns(rows), rows, numbers)


def _row_lines(text: str, start: int, count: int) -> list[int]:
    """Return the line on which each element of the list at `start` begins, which json.loads does not report."""
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


JSON = Format(
    name="json",
    suffixes=(".json",),
    read=read_json,
    recognise=recognise_json,
    mismatch=expected_json,
)
