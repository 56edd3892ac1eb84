"""Give an encoder the rows of one file, and their cells as text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from petrun.data.examples.collector import RowOrigin
from petrun.data.formats.records import Records
from petrun.data.rows.columns import RowSchema
from petrun.errors import DataError

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class FileRows:
    """The rows of one file, the columns that hold their parts, and their numbers over all files."""

    records: Records
    schema: RowSchema
    file: int
    first_row: int
    """Number of the file's first row over all files."""

    def __len__(self) -> int:
        return len(self.records)

    def where(self, i: int) -> str:
        """Return the file and line of row i, for messages."""
        return self.records.where(i)

    def origin(self, i: int) -> RowOrigin:
        return RowOrigin(row=self.first_row + i, file=self.file, line=self.records.line(i))

    def texts(self, canonical: str) -> list[str]:
        """Read a column of texts. Raises DataError."""
        column = self.schema.columns[canonical]
        return [self.text(i, column) for i in range(len(self.records))]

    def text(self, i: int, column: str) -> str:
        """Read the text in a column of the file.

        Raises: DataError naming line and column where it is missing or not a text.
        """
        row = self.records.rows[i]
        value = row.get(column)
        if isinstance(value, str):
            if not value.isascii() and _SURROGATE.search(value):
                raise DataError(
                    f"{self.where(i)}: column '{column}' holds half of a surrogate pair, which is no character",
                    hint="An emoji was cut in two when the file was written: write it again from the original text.",
                )
            return value
        if column not in row:
            raise DataError(f"{self.where(i)}: no column '{column}'", hint=f"Columns of this row: {', '.join(row)}")
        if value is None:
            raise DataError(f"{self.where(i)}: column '{column}' is empty (null)")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(
                f"{self.where(i)}: column '{column}' is {type(value).__name__} {str(value)[:40]!r}, expected text"
            )
        raise DataError(
            f"{self.where(i)}: column '{column}' is the number {value}, expected text",
            hint="Write it as a string, in quotes.",
        )

    def completions(self, i: int) -> list[str]:
        """Read the completion of row i, or several references of its prompt, of which the first is learned.

        Raises: DataError for a list that holds other than texts.
        """
        column = self.schema.columns["target"]
        cell = self.records.rows[i].get(column)
        if not isinstance(cell, list):
            return [self.text(i, column)]
        if not cell or not all(isinstance(text, str) for text in cell):
            raise DataError(
                f"{self.where(i)}: column '{column}' is the list {str(cell)[:40]}, expected a text or a list of texts",
                hint="Several references of one prompt are a list of texts; the first is learned, metrics take all.",
            )
        return cell

    def has_several_references(self, i: int) -> bool:
        """Return whether the completion of row i is a list of several texts; never for a conversation."""
        if self.schema.kind.conversation or not self.schema.has("target"):
            return False
        cell = self.records.rows[i].get(self.schema.columns["target"])
        return isinstance(cell, list) and len(cell) > 1

    def other_references(self, i: int) -> tuple[str, ...]:
        """Return the references of row i after the first, where its completion is a list of texts."""
        cell = self.records.rows[i].get(self.schema.columns["target"]) if self.schema.has("target") else None
        return tuple(cell[1:]) if isinstance(cell, list) and all(isinstance(text, str) for text in cell) else ()
