"""Start the processes of one attempt, watch them, and end them all: the first that fails ends the others."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType

from petrun.cluster import exit_code
from petrun.cluster.other_hosts.host_watch import EndNotice, HostWatch
from petrun.cluster.processes.interpreter import module_command
from petrun.cluster.processes.logs import Follower, holds
from petrun.cluster.processes.process_tag import kill_job, tagged
from petrun.errors import SetupError
from petrun.tensors.atomic import output_error
from petrun.train.stop import NOTICE

_POLL_SECONDS = 0.05
_FAILED_GRACE_SECONDS = 5.0
"""After a rank's end the others cannot take another step: most of them wait for it inside a collective, where Python, and so SIGTERM,
does not reach them. In this time they may finish a file."""
_LEAVE_SECONDS = 10.0
"""The time in which the scheduler notices that all ranks have ended."""
_ORPHANED_SECONDS = 3.0
"""The time to wait for the end of a rank of this host, which may be the reason why the scheduler ended."""
_UNLOAD_SECONDS = 30.0
"""The time in which the ranks end after the scheduler, which ends once all of them have disconnected."""
_NEWS_SECONDS = 10.0
"""The time to wait for a notice of another host, whose rank may be the reason and may take longer to unload."""


@dataclass(frozen=True, eq=False)
class JobProcess:
    """A process to start."""

    name: str
    """Its name in messages, such as "rank 3"."""
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path


@dataclass(frozen=True)
class Ending:
    """The end of an attempt."""

    code: int
    """0, or the exit code of the first process that failed; 128 + N for signal N, to that process or to petrun."""
    culprit: JobProcess | None = None
    """The process that failed first."""
    stopped: int = 0
    """The signal that petrun got, here or on another host."""
    how: str = ""
    """How the culprit ended, where its exit code does not tell it."""
    elsewhere: EndNotice | None = None
    """Why the attempt ended, where the reason is on another host."""
    survivors: tuple[int, ...] = ()
    """Ids of processes that SIGKILL has not ended."""


class StopSignals:
    """A context manager: while its block runs, signals that ask petrun to end are only recorded."""

    def __init__(self) -> None:
        self.first = 0
        self.count = 0
        self._before: dict[int, signal.Handlers | Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup ignores it.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.first = self.first or number
        self.count += 1


def supervise(
    ranks: Sequence[JobProcess],
    scheduler: JobProcess | None,
    *,
    job: str,
    grace_seconds: float,
    stops: StopSignals,
    show: Callable[[str], None],
    watch: HostWatch | None = None,
    tell: Callable[[Ending], EndNotice | None] = lambda ending: None,
) -> Ending:
    """Run one attempt to its end, and leave none of its processes.

    `watch`: the other hosts, where there are any. They get a notice of an ending that began here, made by `tell`, before the ranks are
    ended.

    The first rank's output goes to `show`, line by line. Once a rank has failed, or `stops` has noted a signal, the others get
    SIGTERM and after the grace SIGKILL; a second signal ends the grace. Raises SetupError where a process cannot be started.
    """
    attempt = _Attempt(job, stops)
    try:
        if scheduler is not None:
            attempt.start(scheduler)
        for member in ranks:
            attempt.start(member)
        with Follower(ranks[0].log, show) as follower:
            ending = _watch(attempt, ranks, scheduler, follower, watch)
            if ending.culprit is not None:
                members = [*ranks, *([scheduler] if scheduler is not None else [])]
                ending = _explain(
                    ending, attempt, members, watch, lambda: attempt.wait(ranks, grace_seconds, follower.read)
                )
            if watch is not None and ending.elsewhere is None:
                watch.tell(tell(ending))
            attempt.end(
                [m for m in ranks if m in attempt.running],
                grace_seconds if ending.stopped else min(grace_seconds, _FAILED_GRACE_SECONDS),
                follower.read,
            )
            follower.finish()
        if scheduler is not None and ending.code == 0:
            attempt.wait([scheduler], _LEAVE_SECONDS)
    finally:
        survivors = attempt.sweep()
    return replace(ending, survivors=tuple(survivors))


def _watch(
    attempt: _Attempt,
    ranks: Sequence[JobProcess],
    scheduler: JobProcess | None,
    follower: Follower,
    watch: HostWatch | None,
) -> Ending:
    """Watch until all ranks have ended well, a rank or the scheduler has failed, another host reports an end, or petrun gets a signal."""
    orphaned: float | None = None
    while True:
        follower.read()
        if attempt.stops.first:
            return Ending(exit_code.of_signal(attempt.stops.first), None, attempt.stops.first)
        for member in ranks:
            if code := attempt.poll(member):
                return Ending(code, member)
        if not any(member in attempt.running for member in ranks):
            return Ending(0)
        if watch is not None and watch.notice is not None:
            return Ending(watch.notice.code, stopped=watch.notice.stopped, elsewhere=watch.notice)
        if scheduler is not None and (code := attempt.poll(scheduler)):
            # The scheduler misses a rank: of this host, which the next round finds, or of another.
            orphaned = orphaned or time.monotonic() + _ORPHANED_SECONDS
            if time.monotonic() > orphaned:
                return Ending(code, scheduler)
        elif (scheduler is not None and scheduler not in attempt.running) or (
            watch is not None and watch.first_is_done
        ):
            orphaned = orphaned or time.monotonic() + _UNLOAD_SECONDS
            if time.monotonic() > orphaned:
                left = next(member for member in ranks if member in attempt.running)
                return Ending(
                    1, left, how=f"was still running {_UNLOAD_SECONDS:.0f} s after the job's scheduler had ended"
                )
        time.sleep(_POLL_SECONDS)


def _explain(
    ending: Ending,
    attempt: _Attempt,
    members: Sequence[JobProcess],
    watch: HostWatch | None,
    wait: Callable[[], object],
) -> Ending:
    """Return the ending with the process that caused it, where that is not the first that ended. `wait`: the grace for the ranks to end."""
    held = next((member for member in members if attempt.is_held(member)), None)
    if held is not None:
        return Ending(1, held, how="is stopped (by SIGSTOP, as a debugger does), and the others have lost it;")
    if ending.code not in exit_code.STOPPED or ending.culprit is None or attempt.was_killed(ending.culprit):
        return ending
    # A rank was told to stop, and all of them stop together after the current step: ranks that are still saving have the grace period.
    told = next((member for member in members if holds(member.log, NOTICE)), None)
    if told is None and watch is None:
        return ending
    wait()
    if told is not None:
        return replace(ending, culprit=told, how=f"was told to stop by {exit_code.signal_name(ending.code)}")
    if watch is not None and watch.wait(_NEWS_SECONDS) is not None:
        return Ending(ending.code, elsewhere=watch.notice)
    return ending


class _Attempt:
    """The processes of an attempt that were started and have not ended."""

    def __init__(self, job: str, stops: StopSignals) -> None:
        self.job, self.stops = job, stops
        self.running: dict[JobProcess, subprocess.Popen[bytes]] = {}
        self._codes: dict[JobProcess, int] = {}
        self._killed: set[JobProcess] = set()

    def start(self, member: JobProcess) -> None:
        """Start a process in a session of its own, so that Ctrl-C reaches petrun alone, which passes it on."""
        command = module_command("petrun.cluster.processes.parent_death_signal", str(os.getpid()), *member.command)
        try:
            log = member.log.open("wb")
        except OSError as error:
            raise output_error(member.log, error) from error
        with log:
            try:
                self.running[member] = subprocess.Popen(
                    command,
                    env=tagged(member.environment, self.job),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise SetupError(f"{member.name} cannot be started: {error.strerror}") from error

    def poll(self, member: JobProcess) -> int:
        """Return its exit code once it has ended, 128 + N for signal N; 0 while it runs."""
        if member in self.running and (status := self.running[member].poll()) is not None:
            del self.running[member]
            self._codes[member] = exit_code.of_status(status)
            if status < 0:
                self._killed.add(member)
        return self._codes.get(member, 0)

    def was_killed(self, member: JobProcess) -> bool:
        """Return whether a signal ended the process; False where it caught the signal and ended itself."""
        return member in self._killed

    def is_held(self, member: JobProcess) -> bool:
        """Return whether the process runs and is stopped by SIGSTOP."""
        if member not in self.running:
            return False
        with suppress(OSError, IndexError):
            # The name in brackets may hold anything.
            return (
                Path(f"/proc/{self.running[member].pid}/stat")
                .read_text("utf-8", "replace")
                .rpartition(")")[2]
                .split()[0]
                == "T"
            )
        return False

    def wait(self, members: Sequence[JobProcess], seconds: float, meanwhile: Callable[[], None] | None = None) -> bool:
        """Wait until all have ended, and return whether they have in this time. A further signal to petrun ends the waiting."""
        deadline, signals = time.monotonic() + seconds, self.stops.count
        while any(member in self.running for member in members):
            if time.monotonic() > deadline or self.stops.count > signals:
                return False
            if meanwhile is not None:
                meanwhile()
            time.sleep(_POLL_SECONDS)
            for member in members:
                self.poll(member)
        return True

    def end(self, members: Sequence[JobProcess], grace_seconds: float, meanwhile: Callable[[], None]) -> None:
        """Send SIGTERM to each process, which ends its own child processes itself. `sweep` sends SIGKILL."""
        for member in members:
            self.running[member].terminate()
        self.wait(members, grace_seconds, meanwhile)

    def sweep(self) -> list[int]:
        """Kill all remaining processes of the attempt. Returns the ids of those that cannot be killed."""
        for process in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        survivors = kill_job(self.job)
        for member, process in list(self.running.items()):
            if process.pid not in survivors:
                process.wait()
                self.poll(member)
        return survivors
