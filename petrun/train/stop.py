"""Request that a run ends after its current step: a signal raises it, the loop checks it between steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

GRACE = "PETRUN_GRACE"
"""In a rank's environment: seconds that it has to end once a signal has told it to, as petrun's --grace says."""
RESUME_FLAGS = "PETRUN_RESUME_FLAGS"
"""In a rank's environment: the flags by which `petrun resume` starts the same ranks again on this host."""
NOTICE = "stopping after this step"
"""Message of a run when a signal to this process is deferred."""


class Stopped(BaseException):
    """Ctrl-C (SIGINT) or a scheduler's SIGTERM ends the command. Not KeyboardInterrupt, which the command line's library catches itself."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class StopRequest:
    """A signal that came, its time, and whether the run ends itself or has to be ended."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.came_at = 0.0
        self.deferred = False
        """A run is between its first step and its last: it looks here after every step."""
        self.notice = ""
        """Message where a deferred signal comes."""
        self.due: float | None = None
        """When the process has to be ended, by time.monotonic()."""
        self.overdue = ""
        """Message at that time."""

    def note(self, number: int) -> bool:
        """True for the first signal. A signal within half a second is the same request: a terminal and a supervisor both send it."""
        if self.number is None:
            self.number, self.came_at = number, time.monotonic()
            return True
        return False

    @property
    def is_old(self) -> bool:
        """A further signal is a second request."""
        return self.number is not None and time.monotonic() - self.came_at > 0.5

    def forget(self) -> None:
        self.number = None

    @contextmanager
    def within(self, seconds: float, overdue: str) -> Iterator[None]:
        """A block that may wait for another process for ever: after this time the process is ended with exit code 1 and these words."""
        self.due, self.overdue = time.monotonic() + seconds, overdue
        try:
            yield
        finally:
            self.due = None

    @contextmanager
    def deferring(self, notice: str = NOTICE) -> Iterator[None]:
        """In the block a first signal does not end the program; the block looks at `number`."""
        self.deferred, self.notice = True, notice
        try:
            yield
        finally:
            self.deferred = False


@lru_cache(maxsize=1)
def stop_request() -> StopRequest:
    """Return the request of this process."""
    return StopRequest()
