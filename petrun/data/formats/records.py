"""Define rows as a file holds them, before they are interpreted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy.typing as npt

from petrun.data.formats.json_lines import JsonLines
from petrun.data.formats.slices import RowRange
from petrun.typing import JsonObject

Array: TypeAlias = npt.NDArray[Any]
_CHUNK_ROWS = 1024
ABSENT = object()
"""In place of a cell, where the row has no such column."""


@dataclass
class Records:
    """The rows of one file. `lines[i]` is the line on which row i begins; where a format has no lines, its row number."""

    path: Path
    columns: tuple[str, ...]
    rows: Sequence[JsonObject] = field(repr=False)
    lines: Sequence[int] = field(repr=False)
    arrays: dict[str, Array] = field(default_factory=dict, repr=False)
    """npz only: every array, first axis = rows. `rows` is then empty."""
    _: KW_ONLY
    stream: str | None = field(default=None, repr=False)
    """Plain text only: the full text, blank lines included."""
    notes: tuple[str, ...] = ()
    """Notes for the user on how the file was read."""
    format: str = ""
    """Name of the format; this and the next two are filled in by `read_records`."""
    unit: str = "line"
    """The word before a row's number in messages."""
    sorted_keys: bool = False
    """Whether the file's writer may have sorted the keys of objects."""

    _columns: dict[str, list[object]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values()))) if self.arrays else len(self.rows)

    def where(self, row: int) -> str:
        """Name a row in messages: 'train.jsonl, line 7'."""
        return f"{self.path}, {self.unit} {self.line(row)}"

    def line(self, row: int) -> int:
        return self.lines[row] if self.lines else row + 1

    def column(self, name: str) -> list[object]:
        """Return the cells of a column, ABSENT for a row without it. Rows are parsed for it once, and equal texts are one object."""
        if name not in self._columns:
            texts: dict[str, str] = {}
            cells = self.arrays[name] if self.arrays else (row.get(name, ABSENT) for row in self.rows)
            self._columns[name] = [texts.setdefault(cell, cell) if isinstance(cell, str) else cell for cell in cells]
        return self._columns[name]

    def head(self, count: int | None) -> Records:
        """Return the first `count` rows; all without a count. A stream is not shortened: the task decides what a row of it is."""
        if count is None or count >= len(self):
            return self
        return self.between(0, count)

    def part(self, rows: RowRange) -> Records:
        """Return some rows; of plain text, lines. Raises DataError where the file ends before the first of them."""
        count = len(self)
        note = rows.note(self.path, count)
        found = self.between(rows.start, count if rows.stop is None else min(rows.stop, count))
        if self.stream is not None:
            found = replace(found, stream="\n".join(row["text"] for row in found.rows) + "\n")
        return replace(found, notes=(*self.notes, note)) if note else found

    def cells(self, row: int) -> dict[str, Any]:
        """Return column -> cell of one row."""
        return self.rows[row] if self.rows else {name: array[row].tolist() for name, array in self.arrays.items()}

    def take(self, indices: list[int]) -> Records:
        """Return the rows with these numbers."""
        if len(indices) == len(self):
            return self
        return replace(
            self,
            rows=self.rows.take(indices)
            if isinstance(self.rows, JsonLines)
            else [self.rows[i] for i in indices if self.rows],
            lines=[self.line(i) for i in indices],
            arrays={name: array[indices] for name, array in self.arrays.items()},
        )

    def chunks(self) -> list[tuple[int, int]]:
        """Return (start, stop) of pieces that are small enough to be interpreted at once."""
        if isinstance(self.rows, JsonLines):
            return self.rows.chunks()
        count = len(self)
        return [(start, min(start + _CHUNK_ROWS, count)) for start in range(0, count, _CHUNK_ROWS)]

    def loaded(self, start: int, stop: int) -> Records:
        """Return rows `start` to `stop` - 1, each parsed once."""
        found = self.between(start, stop)
        return replace(found, rows=list(found.rows))

    def between(self, start: int, stop: int) -> Records:
        """Return rows `start` to `stop` - 1."""
        lines = self.lines[start:stop] or range(start + 1, stop + 1)
        arrays = {name: array[start:stop] for name, array in self.arrays.items()}
        return replace(self, rows=self.rows[start:stop], lines=lines, arrays=arrays)
