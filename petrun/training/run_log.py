"""Write log.jsonl of a run folder: one line for each optimizer step and each evaluation."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from petrun.tensors.atomic import output_error


class RunLog:
    """Writes log.jsonl: one object for each optimizer step or evaluation. The complete line is in the file when `write` returns."""

    def __init__(self, path: Path, writes: bool = True, *, size: int = 0) -> None:
        """`writes` False: keep no log.

        `size`: bytes of an earlier log that is continued; later bytes, and an incomplete line, are removed. Raises OutputError.
        """
        self.path = path
        self._size = 0
        try:
            continues = writes and size > 0 and path.exists()
            self._file = (path if writes else Path(os.devnull)).open("r+b" if continues else "wb", buffering=0)
            if continues:
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
        """Flush everything written so far to the disk. Raises OutputError."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            if error.errno != errno.EINVAL:  # A device has nothing to sync.
                raise output_error(self.path, error) from error

    def write(self, record: Mapping[str, object]) -> None:
        """Write a line. Raises OutputError; a part of the line that a full disk took is removed."""
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


def _finite(value: object) -> object:
    """Replace NaN and infinity by None, as JSON has only null for them."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
