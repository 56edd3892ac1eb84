"""Processes that a test starts: found again by a tag in their environment, wherever they went, and ended whatever happens."""

import os
import signal
import time
import uuid
from contextlib import suppress
from pathlib import Path

TAG = "PETRUN_TEST"


class TaggedProcesses:
    """The environment of a test's programs, and the processes that have it."""

    def __init__(self):
        self.tag = uuid.uuid4().hex
        self.environment = {**os.environ, TAG: self.tag}

    def alive(self, naming=""):
        """{process id: command line} of those that run; of those alone whose command line holds the word."""
        wanted, found = f"{TAG}={self.tag}".encode(), {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if wanted in (entry / "environ").read_bytes().split(b"\0") and naming in line:
                    found[int(entry.name)] = line
        return found

    def all_end(self, seconds=20.0):
        """Whether none is left within this time."""
        return wait_for(lambda: not self.alive(), seconds)

    def kill(self):
        while found := self.alive():
            for process in found:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.02)


def wait_for(condition, seconds=30.0):
    """The condition's first true value; its last value where the time is over."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found
