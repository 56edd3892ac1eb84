"""Rows as a file holds them, before any meaning is attached."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


@dataclass
class Records:
    """The rows of one file. `lines[i]` is the line on which row i begins; where a format has no lines, its row number."""

    path: Path
    format: str
    columns: tuple[str, ...]
    rows: list[dict[str, Any]] = field(repr=False)
    lines: list[int] = field(repr=False)
    arrays: dict[str, Array] = field(default_factory=dict, repr=False)
    """npz only: every array, first axis = rows. `rows` is then empty."""
    stream: str | None = field(default=None, repr=False)
    """Plain text only: the whole text, blank lines included."""
    headerless: bool = False
    """Delimited files without a header row: the columns are text, label by convention."""

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values()))) if self.arrays else len(self.rows)

    @property
    def unit(self) -> str:
        return "row" if self.format in ("parquet", "npz") else "line"

    def where(self, row: int) -> str:
        """'train.jsonl, line 7', for messages."""
        return f"{self.path}, {self.unit} {self.line(row)}"

    def line(self, row: int) -> int:
        return self.lines[row] if self.lines else row + 1

    def head(self, count: int | None) -> Records:
        if count is None or count >= len(self):
            return self
        arrays = {name: array[:count] for name, array in self.arrays.items()}
        return Records(
            self.path,
            self.format,
            self.columns,
            self.rows[:count],
            self.lines[:count],
            arrays,
            self.stream,
            self.headerless,
        )
