"""Distinguish Ctrl-C from SIGTERM: exit codes 130 and 143, after the current step or at once.

While a graph runs, MindSpore turns SIGINT into SIGTERM, unless SIGINT is blocked in every thread. So SIGINT is blocked before MindSpore
starts threads, and a thread here waits for it. SIGTERM is not blocked, because child processes would inherit that and could not be
ended; the wake-up pipe tells the thread of it while the main thread is inside a graph.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache

from petrun.train.stop import GRACE, Stopped, stop_request

_RANK_SECONDS = 30.0
"""The default where the environment names no limit, as under a user's own msrun."""
_POLL_SECONDS = 0.1


def install() -> None:
    """Handle both signals in this process; a request of an earlier command is forgotten."""
    stop_request().forget()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    _ignore_after_handlers()


def _stop(number: int, frame: types.FrameType | None) -> None:
    """Handle a signal in the main thread: end the command, unless a run is to end itself."""
    request = stop_request()
    first = request.note(number)
    if request.deferred:
        if first:
            _tell(request.notice)
        return
    if any(_is_importing(module) for name, module in list(sys.modules.items()) if name.startswith("petrun.")):
        # MindSpore's import does not survive an exception (it aborts the process); nothing has been written yet.
        leave(request.number or number)
    raise Stopped(request.number or number)


def _tell(notice: str) -> None:
    os.write(2, f"{notice}; once more to stop at once\n".encode())


def retire(code: int) -> None:
    """Prepare for the end of a command that has printed its result. MindSpore takes a second to unload; a signal meanwhile ends the process
    at once, with the command's own exit code and without a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _stop:
            signal.signal(number, _EndAtOnce(code))


class _EndAtOnce:
    """A signal handler that ends the process with this exit code."""

    def __init__(self, code: int) -> None:
        self.code = code

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        os._exit(self.code)


@lru_cache(maxsize=1)
def _ignore_after_handlers() -> None:
    """Have signals ignored at the very end of a process that has retired, where Python has no handlers any more and MindSpore's modules
    still unload: a signal's default action would end the process without the command's exit code. Registered before MindSpore is imported,
    so that it runs after MindSpore's own functions.
    """

    def ignore() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            if isinstance(signal.getsignal(number), _EndAtOnce):
                signal.signal(number, signal.SIG_IGN)

    atexit.register(ignore)


def _is_importing(module: types.ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def leave(number: int) -> None:
    """End the process here and now."""
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


@contextmanager
def distinguish_signals() -> Iterator[None]:
    """A context manager: in its block SIGINT and SIGTERM keep their numbers, and a second one ends the process even inside a graph.

    Enter it before MindSpore is imported.
    """
    main, limit = threading.get_ident(), _hard_limit()
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    done = threading.Event()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(main, reading, done, limit), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _hard_limit() -> float | None:
    """Return the seconds that a rank has after a deferred signal, as its current step may wait for a lost rank for ever. None for a process
    that is not a rank."""
    if "MS_ROLE" not in os.environ and "RANK_TABLE_FILE" not in os.environ:
        return None
    given = os.environ.get(GRACE, "")
    return float(given) if given.replace(".", "", 1).isdecimal() else _RANK_SECONDS


def _watch(main: int, pipe: int, done: threading.Event, limit: float | None) -> None:
    request = stop_request()
    while not done.is_set():
        if request.due is not None and time.monotonic() > request.due:
            os.write(2, f"error: {request.overdue}\n".encode())
            os._exit(1)
        if limit is not None and request.number is not None and time.monotonic() - request.came_at > limit:
            os.write(2, f"the step at hand has not ended within {limit:g} s: another rank may be lost\n".encode())
            leave(request.number)
        if signal.sigtimedwait({signal.SIGINT}, _POLL_SECONDS) is not None:
            _arrived(signal.SIGINT, main)
        with suppress(BlockingIOError):
            for number in os.read(pipe, 64):
                if number == signal.SIGTERM:
                    _arrived(signal.SIGTERM, main)


def _arrived(number: int, main: int) -> None:
    request = stop_request()
    if request.is_old:
        leave(number)
    first = request.note(number)
    if request.deferred:
        if first:
            _tell(request.notice)
    elif number == signal.SIGINT:
        # Wakes the main thread where it waits; its handler takes the number from the request.
        signal.pthread_kill(main, signal.SIGTERM)
