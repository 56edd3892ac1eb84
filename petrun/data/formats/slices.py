"""Parse slices, which name some rows of a file: `rows.jsonl#500` and `rows.jsonl#100:200`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from petrun.errors import DataError

_SLICE = re.compile(r"(.+)#(?:(\d+)|(\d*):(\d*))", re.DOTALL)


@dataclass(frozen=True)
class RowRange:
    """Rows `start` to `stop` - 1 of a file, counted from 0; `stop` None is the end."""

    start: int
    stop: int | None

    def __str__(self) -> str:
        stop = "" if self.stop is None else self.stop
        return f"#{stop}" if self.start == 0 and self.stop is not None else f"#{self.start}:{stop}"

    def note(self, path: Path, count: int) -> str:
        """Return a note where more rows are asked for than the `count` of the file, else "". Raises DataError where it has none of them."""
        if self.start >= count:
            raise DataError(f"{path}: {self} begins behind the last of the file's {count} rows")
        more = self.stop is not None and self.stop > count
        return f"{path}: {self} asks for more than the file's {count} rows" if more else ""


def split_slice(name: str | Path) -> tuple[Path, RowRange | None]:
    """Return (the file or folder, which of its rows). An existing file whose name ends like a slice is that file, with all its rows.

    `#500` is the first 500 rows; `#100:200` are rows 100 to 199, counted from 0 as in Python; either end may be left out.
    Raises: DataError for a slice that holds no row.
    """
    path = Path(name).expanduser()
    found = _SLICE.fullmatch(str(path))
    if path.exists() or found is None:
        return path, None
    file, first, start, stop = found.groups()
    rows = RowRange(0, int(first)) if first else RowRange(int(start or 0), int(stop) if stop else None)
    if rows.stop is not None and rows.stop <= rows.start:
        raise DataError(f"{path}: the slice holds no row", hint="#500 is the first 500 rows, #100:200 are 100 rows.")
    return Path(file), rows
