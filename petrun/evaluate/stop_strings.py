"""Search a text for the strings at which generation stops, and for the beginning of such a string."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Stop strings: the first one in a text ends it."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self.longest = max(map(len, self._strings), default=0)
        """Characters of the longest string; 0 without any."""

    def find(self, text: str, start: int = 0) -> int | None:
        """Return the offset of the first stop string in text[start:], counted from the beginning of the text; None where there is none."""
        offsets = [offset for offset in (text.find(string, start) for string in self._strings) if offset >= 0]
        return min(offsets, default=None)

    def begun(self, text: str) -> int:
        """Return the length of the longest end of the text that begins a stop string; further text may complete it."""
        longest = 0
        for string in self._strings:
            for size in range(min(len(string) - 1, len(text)), longest, -1):
                if text.endswith(string[:size]):
                    longest = size
                    break
        return longest
