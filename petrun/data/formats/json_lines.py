"""Hold the rows of a JSONL file by the places of their lines: a row is parsed when it is used."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from petrun.data.formats.source import Source
from petrun.errors import DataError
from petrun.typing import JsonObject

if TYPE_CHECKING:
    from petrun.data.formats.records import Array

_BOM = b"\xef\xbb\xbf"
_CHUNK_ROWS, _CHUNK_BYTES = 1024, 2**22


class JsonLines(Sequence[JsonObject]):
    """Rows of a file in UTF-8 whose lines have been checked. Two numbers a row are held in memory."""

    def __init__(self, source: Source, starts: Array, stops: Array) -> None:
        """`starts`, `stops`: (n,) int64 offsets of the rows' lines, ascending."""
        self.source, self.starts, self.stops = source, starts, stops

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> JsonObject: ...

    @overload
    def __getitem__(self, index: slice) -> JsonLines: ...

    def __getitem__(self, index: int | slice) -> JsonObject | JsonLines:
        if isinstance(index, slice):
            return JsonLines(self.source, self.starts[index], self.stops[index])
        k = range(len(self))[index]
        row: JsonObject = json.loads(self.source.read(int(self.starts[k]), int(self.stops[k])))
        return row

    def __iter__(self) -> Iterator[JsonObject]:
        for first, last in self.chunks():
            base = int(self.starts[first])
            raw = self.source.read(base, int(self.stops[last - 1]))
            for start, stop in zip(self.starts[first:last].tolist(), self.stops[first:last].tolist(), strict=True):
                yield json.loads(raw[start - base : stop - base].decode("utf-8"))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(a == b for a, b in zip(self, other, strict=True))
        )

    def take(self, indices: Sequence[int]) -> JsonLines:
        """Return the rows with these numbers, which ascend."""
        chosen = np.asarray(indices, np.int64)
        return JsonLines(self.source, self.starts[chosen], self.stops[chosen])

    def chunks(self) -> list[tuple[int, int]]:
        """Return (start, stop) of pieces of at most 1024 rows and, beyond one row, 4 MiB."""
        found, first = [], 0
        while first < len(self):
            limit = int(self.starts[first]) + _CHUNK_BYTES
            reach = int(np.searchsorted(self.stops[first : first + _CHUNK_ROWS], limit, side="right"))
            found.append((first, first + max(1, reach)))
            first = found[-1][1]
        return found


class LineIndex:
    """Finds the lines of a file that are rows, while they are read for the first time."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.starts, self.stops, self.numbers = array("q"), array("q"), array("q")

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield (its number, text) of every line that is not blank. Raises UnicodeDecodeError; DataError where a line ends with something
        else than a line feed, or the file is no text: another reader must tell.
        """
        number = 0
        for offset, block in self.source.blocks():
            if b"\0" in block or block.replace(b"\r\n", b"\n").count(b"\r"):
                raise DataError(f"{self.source.path}: lines that do not end with a line feed")
            at = offset
            for line in block.split(b"\n"):
                start, at = at, at + len(line) + 1
                number += 1
                if start == 0 and line.startswith(_BOM):
                    start, line = len(_BOM), line[len(_BOM) :]
                text = line.decode("utf-8")
                if text.strip():
                    self.starts.append(start)
                    self.stops.append(at - 1)
                    self.numbers.append(number)
                    yield number, text
            # What follows a block's last line feed is no line of its own.
            number -= block.endswith(b"\n")

    def rows(self) -> JsonLines:
        """Return the rows, once all lines were read."""
        starts, stops = (np.frombuffer(found, np.int64) for found in (self.starts, self.stops))
        return JsonLines(self.source, starts, stops)

    def line_numbers(self) -> list[int]:
        """Return the number of each row's line; [] where every line is a row."""
        return [] if len(self.numbers) and self.numbers[-1] == len(self.numbers) else self.numbers.tolist()
