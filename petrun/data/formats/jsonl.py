"""Read JSON lines: one JSON object in each line."""

from __future__ import annotations

import json
from contextlib import suppress

from petrun.data.formats.encoding import find_encoding
from petrun.data.formats.format import FileContent, Format
from petrun.data.formats.json_lines import LineIndex
from petrun.data.formats.json_parts import (
    all_columns,
    as_row,
    expected_json,
    first_value,
    holds_data_list,
    is_cut_off,
    is_whole_json,
    unique_keys,
)
from petrun.data.formats.records import Records
from petrun.data.formats.source import Source
from petrun.errors import DataError
from petrun.typing import JsonObject


def recognise_jsonl(content: FileContent) -> bool:
    """Return whether the first line is an object that is not the full text with its rows under "data"; for other JSON the suffix
    decides.
    """
    if not content.begins_as_json:
        return False
    named = content.suffix_format == JSONL.name
    try:
        value = first_value(content)
    except json.JSONDecodeError:
        # A broken line of JSONL, or a list or object over several lines, or text that happens to begin with a bracket.
        return named or (not content.suffix_format and content.first_line[0] == "{" and not is_whole_json(content))
    return not holds_data_list(content, value) if isinstance(value, dict) else named


def read_jsonl(content: FileContent) -> Records:
    """Read one JSON object in each line; blank lines are skipped. Rows of a file in UTF-8 are parsed again when they are used.

    Raises: DataError naming the line that is cut off, is not JSON, or is not an object.
    """
    if find_encoding(content.source, content.encoding)[0].replace("-", "_") in ("utf_8", "utf_8_sig"):
        # Where a line is wrong, reading the text as a whole says what is wrong with it.
        with suppress(json.JSONDecodeError, UnicodeDecodeError, RecursionError, DataError):
            return _indexed(content.source)
    return _whole(content)


def _indexed(source: Source) -> Records:
    """Check every line, and keep its place. Raises where any line is not one whole JSON object, without a message for the user."""
    index, columns = LineIndex(source), dict[str, None]()
    # Built once: json.loads builds a decoder for every call that names a hook.
    decode = json.JSONDecoder(object_pairs_hook=unique_keys(str(source.path))).decode
    for _, line in index.lines():
        row = as_row(decode(line), str(source.path))
        if not row.keys() <= columns.keys():
            columns |= dict.fromkeys(row)
    return Records(source.path, tuple(columns), index.rows(), index.line_numbers())


def _whole(content: FileContent) -> Records:
    path = content.source.path
    rows: list[JsonObject] = []
    numbers: list[int] = []
    lines = content.text.split("\n")
    last = max(number for number, line in enumerate(lines, 1) if line.strip())
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line, object_pairs_hook=unique_keys(where))
        except json.JSONDecodeError as error:
            cut = number == last and is_cut_off(error, line)
            hint = (
                "The file looks cut off: write or download it again."
                if cut
                else "In JSONL every line is one whole JSON object."
            )
            raise DataError(f"{where}: not JSON: {error.msg} (column {error.colno})", hint=hint) from error
        except RecursionError as error:
            raise DataError(f"{where}: JSON nested too deeply") from error
        rows.append(as_row(row, where))
        numbers.append(number)
    return Records(path, all_columns(rows), rows, numbers)


JSONL = Format(
    name="jsonl",
    suffixes=(".jsonl", ".ndjson"),
    read=read_jsonl,
    recognise=recognise_jsonl,
    mismatch=expected_json,
)
