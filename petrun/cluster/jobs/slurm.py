"""Write a script for Slurm's sbatch. The user's values are quoted, or checked before."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from petrun.cluster.exit_code import CONFIG_ERROR
from petrun.cluster.jobs.scheduler import Scheduler
from petrun.cluster.jobs.script_lines import size_text, strict_lines, train_command
from petrun.cluster.jobs.submission import Submission

_CORES_PER_CARD = 8
"""Cores for the threads of a rank: its own, those of operators on the host, of HCCL and of data. Servers with 8 cards have 96 or more."""


def _cores(job: Submission) -> int:
    """Return the cores of a host: --cpus, or a number for each of its cards."""
    return job.cpus or _CORES_PER_CARD * job.cards_per_host


def slurm_script(job: Submission) -> str:
    """Return a script for sbatch: one task a node, each a petrun that starts and supervises the ranks of its node."""
    head = dict(_directives(job))
    lines = [
        "#!/bin/bash",
        f"# petrun job {job.name}: {size_text(job)}. Submit it with: sbatch FILE",
        *([] if job.cpus else [f"# --cpus was not given: {_CORES_PER_CARD} cores for each card."]),
        *(f"#SBATCH --{key}={value}" for key, value in head.items()),
        *(["#SBATCH --requeue"] if job.restarts else []),
        *strict_lines(job),
    ]
    port = str(job.port) if job.port else None
    arguments = "petrun"
    if job.hosts > 1:
        # A port that two jobs on a node rarely share, below the ephemeral ports of the system.
        lines += [
            'read -r master < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
            f"port={port or '$((20000 + SLURM_JOB_ID % 10000))'}",
        ]
        arguments, port = 'petrun "$master" "$port"', '"$2"'
    inner = train_command(job, '"$SLURM_NODEID"', '"$1"', port)
    # srun does not inherit it from sbatch.
    step = f"srun --kill-on-bad-exit=1 --cpus-per-task={_cores(job)} bash -c {shlex.quote(inner)} {arguments}"
    lines.append("# Each task knows its node's number; the quotes keep the command as it was typed.")
    lines += [f"exec {step}"] if not job.restarts else list(_requeued(step, job.restarts))
    return "\n".join(lines) + "\n"


def _requeued(step: str, restarts: int) -> Iterator[str]:
    """Yield lines that run the step and put the whole job back into the queue where it fails. Slurm itself puts a job back that has lost a
    node, and counts that restart as well; a job that is cancelled does not come this far."""
    yield "code=0"
    yield f"{step} || code=$?"
    yield f"# Exit code {CONFIG_ERROR} is a wrong setting, which another start does not mend."
    yield f"if [[ $code -ne 0 && $code -ne {CONFIG_ERROR} && ${{SLURM_RESTART_COUNT:-0}} -lt {restarts} ]]; then"
    yield '  scontrol requeue "$SLURM_JOB_ID"'
    yield "fi"
    yield 'exit "$code"'


def _directives(job: Submission) -> Iterator[tuple[str, str]]:
    yield "job-name", job.name
    yield "nodes", str(job.hosts)
    yield "ntasks-per-node", "1"
    yield "gres", f"{job.gres}:{job.cards_per_host}"
    # Many sites give a task one core where it asks for none.
    yield "cpus-per-task", str(_cores(job))
    if job.memory:
        yield "mem", job.memory
    if job.queue:
        yield "partition", job.queue
    if job.time_seconds:
        yield "time", _clock(job.time_seconds)
    if job.workdir:
        yield "chdir", job.workdir
    yield "output", f"{job.name}-%j.log"
    if job.restarts:
        # The output of the attempt before stays.
        yield "open-mode", "append"
    # Sent to every task, not to this script: petrun saves and ends before the time is up.
    yield "signal", f"TERM@{job.grace_seconds + 30}"


def _clock(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02}:{minutes:02}:{rest:02}"


def _cores_chosen(job: Submission) -> str | None:
    if job.cpus is not None:
        return None
    return f"--cpus was not given: {_cores(job)} cores of each host are asked for, {_CORES_PER_CARD} for each card"


SLURM = Scheduler(
    name="slurm",
    about="a script for sbatch",
    options=frozenset({"--gres", "--queue", "--time", "--memory", "--cpus", "--restarts"}),
    write=slurm_script,
    start=lambda job, path: f"sbatch {path}",
    remark=_cores_chosen,
)
