"""Run a job on the cards of this host, from its first process to the report of its end.

petrun starts the scheduler and the ranks itself, by the environment that MindSpore documents for a dynamic cluster, and not through
msrun, which does the same, because petrun can end the processes that it has started. msrun ends on SIGTERM and leaves its workers
running, reports Ctrl-C as a success, gives the other ranks no time to save, waits for a heartbeat before it reports a dead worker, and
takes the first `python` on PATH. A user may still run petrun under msrun.

A process of the job is ended in three ways, each for the case that the one before does not cover: petrun signals it (supervise.py); the
kernel signals it when petrun is killed (parent_death_signal.py); the orphan watchdog kills processes that remain (orphan_watchdog.py).
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from petrun.cluster import exit_code, ports
from petrun.cluster.other_hosts.host_watch import EndNotice, HostWatch
from petrun.cluster.other_hosts.hosts import Hosts
from petrun.cluster.processes.logs import tail
from petrun.cluster.processes.orphan_watchdog import OrphanWatchdog
from petrun.cluster.processes.supervise import Ending, JobProcess, StopSignals, supervise
from petrun.cluster.rank_table.start import TableStart, table_environment
from petrun.cluster.ranks import Cluster, rank_environment, scheduler_environment
from petrun.errors import SetupError
from petrun.tensors.atomic import output_error
from petrun.train.stop import GRACE, RESUME_FLAGS


@dataclass(frozen=True, kw_only=True)
class Job:
    """The processes to run on this host, and what happens when they end."""

    command: Sequence[str]
    """The command of every rank."""
    scheduler: Sequence[str]
    """The command of the scheduler, for a job that has one, on the host that runs it."""
    cluster: Cluster | TableStart
    logs: Path
    """Folder; each attempt gets one of its own in it."""
    max_restarts: int = 0
    grace_seconds: float = 30.0
    hosts: Hosts | None = None
    """Connections to petrun on the other hosts; None for one host."""
    resume_flags: str = ""
    """The options by which `petrun resume` starts these ranks again, as a shell reads them."""


@dataclass(frozen=True, kw_only=True)
class JobOutput:
    """The destinations of a job's lines."""

    out: Callable[[str], None]
    """Takes the lines that rank 0 prints."""
    err: Callable[[str], None]
    """Takes the lines that petrun prints about the job."""


def launch(job: Job, output: JobOutput, environment: Mapping[str, str] | None = None) -> int:
    """Run the job, and run it again where it fails and restarts are left. Returns the exit code: the first failing rank's, or 128 + N
    after signal N.

    Raises SetupError where the scheduler's port is taken or a process cannot be started, OutputError for the logs.
    """
    base = dict(os.environ if environment is None else environment)
    base |= {GRACE: f"{job.grace_seconds:g}", RESUME_FLAGS: job.resume_flags}
    tag = uuid.uuid4().hex
    with OrphanWatchdog(tag, job.grace_seconds), StopSignals() as stops:
        for attempt in range(1, job.max_restarts + 2):
            began = time.monotonic()
            folder = _attempt_folder(job.logs)
            cluster = _with_own_port(job, attempt, stops)
            if cluster is None:
                return exit_code.of_signal(stops.first)
            ranks, scheduler = _members(replace(job, cluster=cluster), base, folder)
            output.err(_start_line(job, ranks, folder, attempt))
            with HostWatch(job.hosts) if job.hosts is not None else nullcontext() as watch:
                ending = supervise(
                    ranks,
                    scheduler,
                    job=tag,
                    grace_seconds=job.grace_seconds,
                    stops=stops,
                    show=output.out,
                    watch=watch,
                    tell=lambda ending: _end_notice(ending, job),
                )
            if ending.code:
                output.err(_report(ending, job, time.monotonic() - began))
            if ending.survivors:
                raise SetupError(
                    f"processes that SIGKILL does not end: {', '.join(map(str, ending.survivors))}",
                    hint="They hang in a driver; the host may need a restart.",
                )
            if not exit_code.may_be_retried(ending.code) or ending.stopped or stops.first:
                break
        return ending.code


def check_start(cluster: Cluster | TableStart) -> None:
    """Raises SetupError where the job's first attempt could not start here: no such host, or a port that is taken."""
    if isinstance(cluster, Cluster) and _is_scheduled(cluster):
        address = ports.resolve(cluster.address)
        if cluster.port is not None:
            ports.check_port(address, cluster.port)


def _is_scheduled(cluster: Cluster) -> bool:
    """Return whether the scheduler runs here."""
    return cluster.cards > 1 and cluster.host_rank == 0


def _attempt_folder(logs: Path) -> Path:
    """Make the folder `attempt-N`, N one above the highest: the logs of earlier attempts are kept."""
    try:
        logs.mkdir(parents=True, exist_ok=True)
        taken = [int(entry.name[8:]) for entry in logs.glob("attempt-*") if entry.name[8:].isdecimal()]
        folder = logs / f"attempt-{max(taken, default=0) + 1}"
        folder.mkdir()
    except OSError as error:
        raise output_error(logs, error) from error
    return folder


def _with_own_port(job: Job, attempt: int, stops: StopSignals) -> Cluster | TableStart | None:
    """Return the cluster with the scheduler's address and port in this attempt: each has a port of its own, as a restarted rank
    must not meet the scheduler of the attempt before. With several hosts, host 0 chooses it and sends it to the others. None: stopped
    meanwhile.
    """
    cluster = job.cluster
    if not isinstance(cluster, Cluster):
        return cluster
    address = ports.resolve(cluster.address)
    if job.hosts is not None:
        if not (attempt == 1 and job.hosts.connections) and not job.hosts.connect_all(lambda: bool(stops.first)):
            return None
        port = job.hosts.exchange(ports.free_port(address) if _is_scheduled(cluster) else None)[0]
    elif cluster.port is None:
        port = ports.free_port(address)
    else:
        port = cluster.port + attempt - 1
        if _is_scheduled(cluster):
            ports.check_port(address, port)
    return replace(cluster, address=address, port=port)


def _members(job: Job, base: Mapping[str, str], folder: Path) -> tuple[list[JobProcess], JobProcess | None]:
    """Return the ranks of this host, and the scheduler where it belongs here."""
    cluster = job.cluster
    if isinstance(cluster, TableStart):
        environments = {rank: table_environment(base, cluster, rank) for rank in cluster.ranks}
        return [_rank(job, rank, environment, folder) for rank, environment in environments.items()], None
    port = cluster.port or 0
    ranks = [_rank(job, rank, rank_environment(base, cluster, rank, port), folder) for rank in cluster.ranks]
    if not _is_scheduled(cluster):
        return ranks, None
    environment = scheduler_environment(base, cluster, port)
    return ranks, JobProcess("the scheduler", job.scheduler, environment, folder / "scheduler.log")


def _rank(job: Job, rank: int, environment: Mapping[str, str], folder: Path) -> JobProcess:
    return JobProcess(f"rank {rank}", job.command, environment, folder / f"rank_{rank}.log")


def _start_line(job: Job, ranks: Sequence[JobProcess], folder: Path, attempt: int) -> str:
    named = f"rank{'s' if len(ranks) > 1 else ''} {_spell(job.cluster.ranks)}"
    again = "" if attempt == 1 else f"attempt {attempt} of {job.max_restarts + 1}: "
    return f"{again}{named} of {job.cluster.cards}; logs in {folder}"


def _spell(ranks: Sequence[int]) -> str:
    """Spell ranks in ascending order, neighbours joined: 0 to 3, 6. A rank table may give a host any ranks."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ", ".join(f"{first} to {last}" if last > first else str(first) for first, last in runs)


def _report(ending: Ending, job: Job, seconds: float) -> str:
    """Report what ended the attempt."""
    after, forced = f"after {seconds:.0f} s", f"(who had not after {job.grace_seconds:g} s, by force)"
    if (notice := ending.elsewhere) is not None:
        where = "" if notice.kind == "lost" else f" on {notice.host}"
        if notice.stopped:
            return f"{notice.what}{where}: every rank was told to stop here as well, and all have ended {forced}"
        return _with_log(f"error: {notice.what}{where} {after}; the ranks of this host were ended", notice.log)
    if ending.culprit is None:
        name = signal.Signals(ending.stopped).name
        return f"{name}: every rank was told to stop, and all have ended {forced}"
    log = ending.culprit.log
    said = (
        f"error: {ending.culprit.name} {ending.how or exit_code.describe(ending.code)} {after}; the others were ended"
    )
    return _with_log(f"{said}\nits log: {log}", _end_of_log(ending) or ["(it is empty)"])


def _with_log(said: str, log: Sequence[str]) -> str:
    return "\n".join([said, *(f"  {line}" for line in log)])


def _end_of_log(ending: Ending) -> list[str]:
    """Return the end of the log of the process that failed; only the last line where it was told to stop, as a graph that was being
    compiled would fill a page.
    """
    found = tail(ending.culprit.log) if ending.culprit is not None else []
    return found[-1:] if ending.code in exit_code.STOPPED else found


def _end_notice(ending: Ending, job: Job) -> EndNotice | None:
    """Return the notice of an ending that began here, for the other hosts; None where the ending is a good one."""
    if ending.code == 0 or job.hosts is None:
        return None
    here = job.hosts.named(job.hosts.cluster.host_rank)
    if ending.culprit is None:
        name = signal.Signals(ending.stopped).name
        return EndNotice(kind="stopped", host=here, what=f"{name} to petrun", code=ending.code, stopped=ending.stopped)
    log = tuple(line[:500] for line in _end_of_log(ending))
    return EndNotice(
        kind="failed",
        host=here,
        what=f"{ending.culprit.name} {ending.how or exit_code.describe(ending.code)}",
        code=ending.code,
        log=log,
    )
