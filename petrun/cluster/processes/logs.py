"""Show a rank's log file while it grows, and its end when the rank has failed.

Workers write into their files themselves, standard output and error in the order of writing. So a log is complete even if petrun ends,
and a slow terminal does not delay training.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

_TRACEBACK = "Traceback (most recent call last)"
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
_TAIL_BYTES = 64 * 1024


class Follower:
    """Passes on every complete line of a growing file, and at the end the last line, complete or not."""

    def __init__(self, path: Path, show: Callable[[str], None]) -> None:
        self._path, self._show = path, show
        self._rest = b""

    def __enter__(self) -> Follower:
        self._file = self._path.open("rb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self) -> None:
        """Show the lines that were written since the last call."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            self._show(_text(line))

    def finish(self) -> None:
        """Show the rest of a file that is complete."""
        self.read()
        if self._rest:
            self._show(_text(self._rest))
            self._rest = b""


def tail(path: Path, lines: int = 20, most: int = 60) -> list[str]:
    """Return the end of a log: from its last traceback on where that is near, else the last lines. The middle of a long end is left out."""
    text = _end(path)
    while text and not text[-1].strip():
        text.pop()
    start = _last_traceback(text)
    if start is None or len(text) - start > 4 * most:
        return text[-lines:]
    found = text[start:]
    return found if len(found) <= most else [*found[: most // 3], "...", *found[-2 * most // 3 :]]


def _end(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            return [_text(line) for line in file.read().split(b"\n")]
    except OSError as error:
        return [f"(the log cannot be read: {error.strerror})"]


def holds(path: Path, words: str) -> bool:
    """Return whether the end of a log holds these words."""
    return any(words in line for line in _end(path))


def _last_traceback(text: list[str]) -> int | None:
    """Return the line where the last traceback begins; of a chain of exceptions, the first one's."""
    start = None
    for number in range(len(text) - 1, -1, -1):
        if _TRACEBACK not in text[number]:
            continue
        start = number
        before = next((line for line in reversed(text[:number]) if line.strip()), "")
        if not before.startswith(_CHAINED):
            break
    return start


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")
