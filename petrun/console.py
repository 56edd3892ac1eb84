"""What a training run prints, and its log. Beside cli/, the only place that prints."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from petrun.tensors.atomic import output_error

_speaks = True


def set_quiet(quiet: bool = True) -> None:
    """Print nothing and draw no bar from now on: for the ranks of a job that are not its first."""
    global _speaks
    _speaks = not quiet


def print(text: str = "") -> None:
    """A line on standard output, above any progress bar."""
    if _speaks:
        tqdm.write(text, file=sys.stdout)


def print_to_stderr(text: str) -> None:
    """A line on standard error: what is to be known of a result that goes to standard output, which may be a file."""
    tqdm.write(text, file=sys.stderr)


def _draws() -> bool:
    return _speaks and sys.stderr.isatty()


def progress(label: str, unit: str = "row") -> Callable[[int, int], None]:
    """A callback (done, total) that draws a bar on a terminal, and is silent elsewhere."""
    bar: Any = None

    def update(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, desc=label, unit=unit, leave=False, disable=not _draws())
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update


class RunLog:
    """log.jsonl: one object per optimizer step or evaluation. A line is in the file, whole, when `write` returns."""

    def __init__(self, path: Path, writes: bool = True, *, size: int = 0) -> None:
        """`writes` False: keep no log. `size`: bytes of an earlier log to go on from; what follows them, and half a line, is cut off."""
        self.path = path
        self._size = 0
        try:
            goes_on = writes and size > 0 and path.exists()
            self._file = (path if writes else Path(os.devnull)).open("r+b" if goes_on else "wb", buffering=0)
            if goes_on:
                self._size = self._file.read(size).rfind(b"\n") + 1
                self._file.seek(self._size)
                self._file.truncate()
        except OSError as error:
            raise output_error(path, error) from error

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    def sync(self) -> None:
        """Everything written so far is on the disk after this. Raises OutputError."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            if error.errno != errno.EINVAL:  # A device, which has nothing to sync.
                raise output_error(self.path, error) from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Raises OutputError; what a full disk took of the line is taken away again."""
        line = json.dumps(_finite(record)).encode() + b"\n"
        try:
            done = 0
            while done < len(line):
                done += self._file.write(line[done:])
            self._size += len(line)
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._size)
            raise output_error(self.path, error) from error

    def close(self) -> None:
        self._file.close()


def _finite(value: Any) -> Any:
    """JSON has no word for NaN and infinity but null."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class StepBar:
    """Progress over optimizer steps: loss, rate, tokens per second and the time left.

    On a terminal a tqdm bar; elsewhere (a job's log) about twenty plain lines over the run.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self._terminal = _draws()
        self._every = max(1, total // 20)
        self._total = total
        self._first = done + 1
        self._bar = tqdm(
            total=total, initial=done, desc="train", unit="step", disable=not self._terminal, dynamic_ncols=True
        )

    def step(self, record: Mapping[str, Any]) -> None:
        self._bar.set_postfix_str(
            f"loss {record['loss']:.4f}, lr {record['lr']:.2e}, {record['tokens_per_second']:.0f} tok/s", refresh=False
        )
        self._bar.update(1)
        step = int(record["step"])
        if not self._terminal and (step % self._every == 0 or step in (self._first, self._total)):
            print(
                f"step {step}/{self._total}  loss {record['loss']:.4f}  lr {record['lr']:.2e}  "
                f"{record['tokens_per_second']:.0f} tok/s"
            )

    def close(self) -> None:
        self._bar.close()


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns, the first padded to the longest name."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)
