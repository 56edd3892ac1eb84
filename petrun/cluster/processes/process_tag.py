"""Find the processes of one job by a tag in their environment, even those that left their parent, group and session."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

TAG = "PETRUN_JOB"


def tagged(environment: Mapping[str, str], job: str) -> dict[str, str]:
    """Return the environment of a process of this job: its child processes inherit the tag."""
    return {**environment, TAG: job}


def processes_of(job: str) -> list[int]:
    """Return the ids of the job's processes, oldest first. A process that has ended and waits to be collected has no environment any
    more."""
    wanted = f"{TAG}={job}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        # It has ended meanwhile, or belongs to another user.
        with suppress(OSError):
            if wanted in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
    return sorted(found)


def kill_job(job: str, patience_seconds: float = 10.0) -> list[int]:
    """SIGKILL every process of the job until none is found. Returns those that the kernel does not end."""
    deadline = time.monotonic() + patience_seconds
    while found := processes_of(job):
        if time.monotonic() > deadline:
            break
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)
    return found
