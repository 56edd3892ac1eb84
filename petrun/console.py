"""The only place that prints: lines, errors, tables and progress bars.

It imports nothing of petrun, and tqdm only where a bar is drawn: `petrun --help` prints through it as well.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

_quiet = False
_results_only = False


def set_results_only(alone: bool = True) -> None:
    """Print no `tell` and draw no bar from now on, as --quiet asks: results, notes and errors alone."""
    global _results_only
    _results_only = alone


def set_quiet(quiet: bool = True) -> None:
    """Print no `print` and no `tell`, and draw no bar from now on: for the ranks of a job that are not its first."""
    global _quiet
    _quiet = quiet


@contextmanager
def silenced(quiet: bool = True) -> Iterator[None]:
    """Print no `print` and draw no bar in the block, where `quiet`."""
    before = _quiet
    set_quiet(quiet or before)
    try:
        yield
    finally:
        set_quiet(before)


def print(text: str = "") -> None:
    """Print a line on standard output, above any progress bar."""
    if not _quiet:
        _write(f"{text}\n", sys.stdout)


def tell(text: str = "") -> None:
    """Print a line about the work itself, which --quiet leaves out: what is planned, how far it is, which file was written."""
    if not _results_only:
        print(text)


def write(text: str) -> None:
    """Write text to standard output without an end of line."""
    if not _quiet:
        _write(text, sys.stdout)


def print_to_stderr(text: str) -> None:
    """Print a line on standard error, about a result that goes to standard output, which may be a file."""
    _write(f"{text}\n", sys.stderr)


def print_error(message: str, hint: str = "", *, label: str = "error") -> None:
    """Print `error: message` on standard error, the label red on a terminal; then the hint, on lines of its own."""
    shown = f"\x1b[31m\x1b[1m{label}: \x1b[0m" if sys.stderr.isatty() else f"{label}: "
    print_to_stderr(f"{shown}{message}")
    if hint:
        print_to_stderr(hint)


def _write(text: str, file: TextIO) -> None:
    """Write text; a progress bar is removed before, and drawn again below the text."""
    bars = sys.modules.get("tqdm")
    with _clock.erased():
        if bars is None:
            file.write(text)
        else:
            bars.tqdm.write(text, file=file, end="")
        file.flush()


def _draws() -> bool:
    return not _quiet and not _results_only and sys.stderr.isatty()


class _Clock:
    """The last line of a terminal: what is at work, and for how many seconds. A thread draws it, so that it goes on inside MindSpore."""

    _PAUSE_SECONDS = 0.5

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._works: list[tuple[str, float]] = []
        self._is_drawn = False
        self._thread: threading.Thread | None = None

    def begin(self, label: str) -> None:
        with self._lock:
            self._works.append((label, time.monotonic()))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()

    def end(self) -> None:
        with self.erased():
            self._works.pop()

    @contextmanager
    def erased(self) -> Iterator[None]:
        """A context manager: the line is taken away, and not drawn in the block."""
        with self._lock:
            if self._is_drawn:
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
                self._is_drawn = False
            yield

    def _run(self) -> None:
        while True:
            time.sleep(self._PAUSE_SECONDS)
            with self._lock:
                if not self._works:
                    self._thread = None
                    return
                label, began = self._works[-1]
                if (seconds := time.monotonic() - began) >= self._PAUSE_SECONDS:
                    sys.stderr.write(f"\r\x1b[K{label} {seconds:.0f} s")
                    sys.stderr.flush()
                    self._is_drawn = True


_clock = _Clock()


@contextmanager
def working(label: str) -> Iterator[None]:
    """A context manager, also a decorator: shows on a terminal what is at work and for how long, where it takes more than half a second."""
    if not _draws():
        yield
        return
    _clock.begin(label)
    try:
        yield
    finally:
        _clock.end()


def progress(label: str, unit: str = "row") -> Callable[[int, int], None]:
    """Make a callback (done, total) that draws a bar on a terminal, and is silent elsewhere."""
    bar: tqdm[NoReturn] | None = None

    def update(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            from tqdm import tqdm

            bar = tqdm(total=total, desc=label, unit=unit, leave=False, disable=not _draws())
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update


class StepBar:
    """Shows progress over optimizer steps: loss, rate, tokens per second and the time left.

    It is a tqdm bar on a terminal; elsewhere (a job's log) about twenty plain lines over the run.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        from tqdm import tqdm

        self._terminal = _draws()
        self._every = max(1, total // 20)
        self._total = total
        self._first = done + 1
        self._bar: tqdm[NoReturn] = tqdm(
            total=total, initial=done, desc="train", unit="step", disable=not self._terminal, dynamic_ncols=True
        )

    def step(self, record: Mapping[str, float]) -> None:
        self._bar.set_postfix_str(
            f"loss {record['loss']:.4f}, lr {record['lr']:.2e}, {record['tokens_per_second']:.0f} tok/s", refresh=False
        )
        self._bar.update(1)
        step = int(record["step"])
        if not self._terminal and (step % self._every == 0 or step in (self._first, self._total)):
            tell(
                f"step {step}/{self._total}  loss {record['loss']:.4f}  lr {record['lr']:.2e}  "
                f"{record['tokens_per_second']:.0f} tok/s"
            )

    def close(self) -> None:
        self._bar.close()


class LiveText:
    """Text on a terminal that takes the place of the text shown before."""

    def __init__(self) -> None:
        self._lines = 0

    def show(self, text: str) -> None:
        """Show the text, each line cut at the terminal's width: a line that wraps would be two to go up."""
        width = shutil.get_terminal_size().columns
        lines = [line[: width - 1] for line in text.splitlines()]
        back = f"\x1b[{self._lines}F" if self._lines else ""
        write(back + "".join(f"\x1b[K{line}\n" for line in lines) + "\x1b[J")
        self._lines = len(lines)


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Format two columns, the first padded to the longest name."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of equally many cells, every column padded to its longest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def bytes_text(count: int) -> str:
    """Return bytes in the largest unit that leaves a number above 1."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count} bytes"
