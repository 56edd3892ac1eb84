"""Write the result of a `petrun data` command: the rows that stay, those that were dropped with their reasons, and a report.

    F                  the rows that stay
    F.dropped.jsonl    {"file", "line", "reason", "problem", "row"} for every row that was dropped
    F.report.json      what was read (names and digests), the settings, and how many rows were dropped for which reason

All three depend on the inputs and the settings alone: the same command writes the same bytes again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from petrun import console
from petrun.curation.reading import DataRow, RowFiles, UnreadableRow
from petrun.curation.writing import RowWriter, check_row_suffix, json_line, row_writer
from petrun.errors import ConfigError, DataError
from petrun.tensors import atomic_file
from petrun.tensors.output import check_file, write_text
from petrun.typing import JsonObject

DROPPED, REPORT = "dropped.jsonl", "report.json"
UNREADABLE = "cannot be read"


def dropped_row(row: DataRow | UnreadableRow, reason: str, problem: str, content: object) -> JsonObject:
    """Return what is written of a row that is left out."""
    return {"file": row.file, row.unit: row.line, "reason": reason, "problem": problem, "row": content}


def dropped_lines(rows: Iterable[UnreadableRow]) -> str:
    """Return what is written of lines that are no rows."""
    return "".join(json_line(dropped_row(row, UNREADABLE, row.problem, row.text)) for row in rows)


class RowOutput:
    """Takes every row of the input, to keep or to drop."""

    def __init__(self, writer: RowWriter, dropped: BinaryIO) -> None:
        self._writer = writer
        self._dropped = dropped
        self.reasons: Counter[str] = Counter()
        self.facts: JsonObject = {}
        """Further figures for the report."""
        self._first: dict[str, str] = {}

    @property
    def kept(self) -> int:
        return self._writer.count

    def keep(self, cells: JsonObject) -> None:
        """Write a row."""
        self._writer.write(cells)

    def keep_line(self, line: bytes) -> None:
        """Write a row that `json_line` has made."""
        self._writer.write(json.loads(line))

    def drop(self, row: DataRow, reason: str, problem: str) -> None:
        """Leave a row out. `reason`: the rule's name; `problem`: what was found in this row."""
        self._note(row, reason, problem, row.cells)

    def drop_unreadable(self, row: UnreadableRow) -> None:
        """Leave out a line that is no row."""
        self._note(row, UNREADABLE, row.problem, row.text)

    def _note(self, row: DataRow | UnreadableRow, reason: str, problem: str, content: object) -> None:
        self.reasons[reason] += 1
        self._first.setdefault(reason, f"{row.where}: {problem}")
        self._dropped.write(json_line(dropped_row(row, reason, problem, content)).encode())

    def require_rows(self) -> None:
        """Raises DataError where every row was dropped, with the first row of each reason."""
        if not self.kept:
            lines = [
                f"{count} rows: {reason}, first {self._first[reason]}" for reason, count in self.reasons.most_common()
            ]
            raise DataError("\n  ".join(["no row is left, so nothing was written:", *lines]))


def check_out(out: str | None, files: RowFiles, *others: str | None) -> Path:
    """Check before any work that the result can be written. Raises ConfigError where --out is missing; OutputError."""
    if out is None:
        raise ConfigError("--out is missing: the file of rows to write", hint="Example: --out rows.jsonl")
    check_row_suffix("--out", out)
    for path in (out, f"{out}.{DROPPED}", f"{out}.{REPORT}"):
        check_file("--out", path, [*files.inputs, *(Path(other).expanduser() for other in others if other is not None)])
    return Path(out).expanduser()


@contextmanager
def row_output(out: Path, files: RowFiles, command: str, settings: JsonObject) -> Iterator[RowOutput]:
    """Yield the result of a command; at its end all three files are there, and what they hold is printed. Raises DataError, OutputError."""
    with atomic_file(Path(f"{out}.{DROPPED}")) as (dropped, _), row_writer(out) as writer:
        output = RowOutput(writer, dropped)
        yield output
        output.require_rows()
    report = {
        "command": command,
        "inputs": files.digests(),
        "settings": settings,
        "kept": output.kept,
        "dropped": dict(sorted(output.reasons.items())),
        **output.facts,
    }
    write_text(Path(f"{out}.{REPORT}"), json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    console.tell(f"wrote {output.kept:,} rows to {out}")
    gone = sum(output.reasons.values())
    if gone:
        console.print(f"dropped {gone:,} rows, each with its reason in {out}.{DROPPED}:")
        counts = [(f"  {count:,}", reason) for reason, count in output.reasons.most_common()]
        console.print(console.table(counts))
