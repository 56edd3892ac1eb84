"""End a job whose petrun has ended.

Usage: `python -m petrun.cluster.processes.orphan_watchdog JOB GRACE_SECONDS`, with a pipe from petrun as standard input.

petrun writes DONE when no process is left. A pipe that closes without it means that petrun was killed: every process of the job
has had SIGTERM then (see parent_death_signal.py), and after the grace period the remaining ones are killed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import TracebackType

from petrun.cluster.processes.interpreter import module_command
from petrun.cluster.processes.process_tag import kill_job, processes_of

DONE = b"done"


class OrphanWatchdog:
    """A context manager: while its block runs, a process that outlives petrun watches over its job."""

    def __init__(self, job: str, grace_seconds: float) -> None:
        self._command = module_command(__name__, job, str(grace_seconds))

    def __enter__(self) -> OrphanWatchdog:
        # In a session of its own, so that a signal to petrun's process group does not reach it. It holds no terminal or pipe of petrun's
        # open.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The watchdog may have been killed itself.
        with suppress(BrokenPipeError):
            self._process.communicate(DONE)


def main() -> None:
    job, grace_seconds = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read() == DONE:
        return
    deadline = time.monotonic() + float(grace_seconds)
    while time.monotonic() < deadline and processes_of(job):
        time.sleep(0.1)
    kill_job(job)


if __name__ == "__main__":
    main()
