"""Lock a run folder: one process at a time trains in it, and RUN/run.lock names that process.

The process holds a lock (flock) on the file, which the kernel releases when the process ends. Where the file was written on another
machine, that lock may not be seen across the shared disk. So the process also sets the file's time every few seconds: a file whose time
does not change was left by a process that was killed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from petrun.errors import OutputError
from petrun.tensors.atomic import output_error

LOCK = "run.lock"
BEAT_SECONDS = 5.0
STALE_SECONDS = 120.0
"""A network file system may show a file's time up to a minute late."""
_LOCKED = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Error codes of disks without locks."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Names the process that holds a lock, as the lock file does."""

    host: str
    boot: str
    """The kernel's id of this boot of the machine: equal in all containers of one machine, and nowhere else."""
    process: int
    since: str

    @property
    def text(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


class RunLock:
    """Locks a run folder for this process until the end of the block."""

    def __init__(self, show: Callable[[str], None]) -> None:
        """`show` prints why the lock has to wait."""
        self._show = show
        self._path: Path | None = None
        self._file = -1
        self._over = threading.Event()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def take(self, folder: Path) -> None:
        """Lock `folder` for this process; does nothing where this object holds that lock already.

        Raises OutputError where another process has it, or the file cannot be made.
        """
        path = folder / LOCK
        if self._path == path:
            return
        try:
            self._file, locked = _open_locked(path)
            found = _parse(os.pread(self._file, 4096, 0))
            if found is not None and not (locked and found.boot == _boot()):
                self._wait_until_stale(path, found)
            own = Holder(
                host=socket.gethostname(),
                boot=_boot(),
                process=os.getpid(),
                since=datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
            )
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(asdict(own)).encode() + b"\n", 0)
            os.fsync(self._file)
        except OSError as error:
            self._close()
            raise output_error(path, error) from error
        except OutputError:
            self._close()
            raise
        self._path = path
        self._over.clear()
        threading.Thread(target=self._beat, daemon=True).start()

    def release(self) -> None:
        """Remove the file and release the lock. A file that cannot be removed is recognised as stale by the next process."""
        if self._path is not None:
            self._over.set()
            with suppress(OSError):
                self._path.unlink()
            self._path = None
        self._close()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _beat(self) -> None:
        path = self._path
        while path is not None and not self._over.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(path)

    def _wait_until_stale(self, path: Path, holder: Holder) -> None:
        """Return when the file's time has not changed for STALE_SECONDS. Raises OutputError as soon as it changes."""
        first = os.stat(path).st_mtime
        waited = False
        while (age := _now_of_disk(path.parent) - first) < STALE_SECONDS:
            if not waited:
                self._show(
                    f"{path}: is of {holder.text}; waiting up to {STALE_SECONDS - age:.0f} s to see whether it still runs"
                )
                waited = True
            time.sleep(min(BEAT_SECONDS, max(STALE_SECONDS - age, 0.01)))
            if _time_of(path) != first:
                raise _held(path, holder)


def read_holder(path: Path) -> Holder | None:
    """Return the process that a lock file names; None where there is no such file, or it is incomplete."""
    try:
        return _parse(path.read_bytes())
    except OSError:
        return None


def _parse(text: bytes) -> Holder | None:
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None


def _open_locked(path: Path) -> tuple[int, bool]:
    """Return (a descriptor of the lock file, whether it is locked for this process: False on a disk that has no locks).

    Raises OutputError where another process of this machine has it.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return file, False
            os.close(file)
            if error.errno in _LOCKED:
                raise _held(path, read_holder(path)) from error
            raise
        with suppress(FileNotFoundError):
            if os.fstat(file).st_ino == os.stat(path).st_ino:
                return file, True
        # Its holder removed it between the two calls: the lock is on a file that no other process opens.
        os.close(file)


def _held(path: Path, holder: Holder | None) -> OutputError:
    who = holder.text if holder is not None else "another process"
    return OutputError(
        f"{path.parent}: another process trains in this run folder: {who}",
        hint="Let it end, stop it, or give another --out; nothing was touched.",
    )


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def _time_of(path: Path) -> float:
    """Return when the file was written last. It is opened first: only that makes a network file system ask its server."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime


def _now_of_disk(folder: Path) -> float:
    """Return the time by the clock of the disk's server, which also sets a file's time."""
    with tempfile.NamedTemporaryFile(prefix=".petrun-", dir=folder) as file:
        file.write(b"\n")
        file.flush()
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_mtime
