"""Run a boot script: its lines are shown as they come, and it ends with all that it started where the time is over or the caller stops."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0
_LEFT_SECONDS = 2.0
"""How long lines are read after the script's end, where a process that it left behind still holds its output open."""


def run_script(
    script: Path, arguments: Sequence[str], show: Callable[[str], None], timeout_seconds: float | None
) -> int | None:
    """Run `python script arguments...` with this Python, and return its exit code, below 0 for a signal; None where the time was over.

    `show` gets each line of its output that is not empty. The script has a session of its own, so that what it starts ends with it.
    """
    # Without this a script's lines come in blocks, and the last are lost where it is killed.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return _follow(process, show, deadline)
    finally:
        if process.poll() is None:
            _end(process)
        if process.stdout is not None:
            process.stdout.close()


def _follow(process: subprocess.Popen[bytes], show: Callable[[str], None], deadline: float | None) -> int | None:
    assert process.stdout is not None
    pending, ended = b"", None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while ended is None or time.monotonic() < ended + _LEFT_SECONDS:
            if selector.select(_POLL_SECONDS):
                piece = os.read(process.stdout.fileno(), 65536)
                if not piece:
                    break
                *lines, pending = (pending + piece).split(b"\n")
                for line in lines:
                    _show(line, show)
            if deadline is not None and time.monotonic() > deadline and process.poll() is None:
                _show(pending, show)
                return None
            if ended is None and process.poll() is not None:
                ended = time.monotonic()
    _show(pending, show)
    try:
        return process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None


def _show(line: bytes, show: Callable[[str], None]) -> None:
    text = line.decode("utf-8", "backslashreplace").rstrip()
    if text:
        show(text)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the script and what it started: SIGTERM, and after a grace SIGKILL."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
