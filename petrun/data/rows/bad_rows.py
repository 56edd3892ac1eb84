"""Find all rows that cannot be used, such as rows without a label, and name them or leave them out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from petrun import console
from petrun.data.examples.example_set import ExampleSet
from petrun.data.formats.records import Records
from petrun.errors import DataError
from petrun.tensors.output import write_text

MOST_NAMED = 20
_SKIP_HINT = "--on-bad-row skip leaves such rows out and writes them down."

Check = Callable[[int, Records], object]
"""(number of the file, some of its rows); raises DataError where one of them cannot be used."""


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """One row that cannot be used."""

    file: int
    row: int
    """Its number among the rows of the file."""
    problem: DataError


def find_bad_rows(tables: Sequence[Records], check: Check, most: int | None = None) -> list[BadRow]:
    """Find every row that `check` refuses, in order, at most `most`. Halves are searched, so that few bad rows cost few checks.

    Plain text that is read as one stream has no rows.
    """
    found: list[BadRow] = []

    def search(file: int, start: int, stop: int) -> None:
        if most is not None and len(found) >= most:
            return
        try:
            check(file, tables[file].between(start, stop))
        except DataError as error:
            if stop - start == 1:
                found.append(BadRow(file=file, row=start, problem=error))
                return
            middle = (start + stop) // 2
            search(file, start, middle)
            search(file, middle, stop)

    for file, table in enumerate(tables):
        if table.stream is None and len(table):
            search(file, 0, len(table))
    return found


def bad_rows_error(bad: Sequence[BadRow], first: DataError) -> DataError:
    """Return the error that names up to twenty bad rows; for a single row, its own error with a hint."""
    if len(bad) == 1:
        return DataError(first.message, hint=f"{first.hint} {_SKIP_HINT}".strip())
    count = f"{len(bad)} rows" if len(bad) < MOST_NAMED else f"{MOST_NAMED} rows, and perhaps more,"
    lines = [f"{count} cannot be used:", *(row.problem.message for row in bad)]
    return DataError("\n  ".join(lines), hint=f"{bad[0].problem.hint} {_SKIP_HINT}".strip())


def without_bad_rows(tables: Sequence[Records], bad: Sequence[BadRow]) -> list[Records]:
    """Return the tables without these rows. Raises DataError where none is left."""
    gone = {(row.file, row.row) for row in bad}
    kept = [table.take([i for i in range(len(table)) if (file, i) not in gone]) for file, table in enumerate(tables)]
    if bad and not any(len(table) for table in kept):
        error = bad_rows_error(bad[:MOST_NAMED], bad[0].problem)
        raise DataError(f"no row can be used\n{error.message}", hint=bad[0].problem.hint)
    return kept


def note_skipped(examples: ExampleSet, tables: Sequence[Records], bad: Sequence[BadRow]) -> ExampleSet:
    """Return the examples of the remaining rows, with their numbers in the complete files, and the rows that were left out."""
    gone, numbers, first = {(row.file, row.row) for row in bad}, [], 0
    for file, table in enumerate(tables):
        numbers += [first + i for i in range(len(table)) if (file, i) not in gone]
        first += len(table)
    skipped = tuple(
        json.dumps(
            {
                "file": str(tables[row.file].path),
                tables[row.file].unit: tables[row.file].line(row.row),
                "problem": row.problem.message,
                "row": tables[row.file].cells(row.row),
            },
            ensure_ascii=False,
            default=str,
        )
        for row in bad
    )
    rows = np.array(numbers, np.int32)[examples.per_row["row"]]
    stats = replace(examples.stats, read=examples.stats.read + len(bad), bad=len(bad))
    return replace(examples, per_row={**examples.per_row, "row": rows}, stats=stats, skipped=skipped)


SKIPPED = "skipped.jsonl"
"""File of the rows that could not be used, each with its file, line and problem."""


def write_skipped(path: Path, *examples: ExampleSet | None) -> None:
    """Write the rows that could not be used to a file and print its name, where there are any."""
    lines = dict.fromkeys(line for rows in examples if rows is not None for line in rows.skipped)
    if lines:
        write_text(path, "".join(f"{line}\n" for line in lines))
        console.print(f"wrote {len(lines)} rows that cannot be used to {path}")
