"""Write a script to start by hand on every host, with the host's number."""

from __future__ import annotations

import shlex

from petrun.cluster.jobs.scheduler import Scheduler
from petrun.cluster.jobs.script_lines import size_text, strict_lines, train_command
from petrun.cluster.jobs.submission import Submission
from petrun.errors import ConfigError


def shell_script(job: Submission) -> str:
    """Return the script; with several hosts it takes the host's number as its argument."""
    lines = ["#!/bin/bash", f"# petrun job {job.name}: {size_text(job)}."]
    if job.hosts > 1:
        last = job.hosts - 1
        lines += [
            f"# Run it on every host, with the host's number: bash FILE 0 on {job.address}, bash FILE 1 on the next, up to {last}.",
            "set -eo pipefail",
            f"if [[ $# -ne 1 || ! $1 =~ ^(0|[1-9][0-9]*)$ || $1 -gt {last} ]]; then",
            f'  echo "usage: bash $0 HOST_RANK, from 0 to {last}; 0 is {job.address}" >&2',
            "  exit 2",
            "fi",
        ]
    lines += strict_lines(job)
    if job.workdir:
        lines.append(f"cd {shlex.quote(job.workdir)}")
    port = str(job.port) if job.port else None
    lines.append(train_command(job, '"$1"', shlex.quote(job.address or ""), port))
    return "\n".join(lines) + "\n"


def _require_address(job: Submission) -> None:
    """Raises ConfigError without the address of host 0, which only the user knows."""
    if job.hosts > 1 and job.address is None:
        raise ConfigError(
            "--to shell with several --hosts needs --master-addr", hint="The address of the host that gets number 0."
        )
    if job.hosts == 1 and job.address is not None:
        raise ConfigError("--master-addr: there is only one host; it goes with --hosts")


SHELL = Scheduler(
    name="shell",
    about="a script for each host",
    options=frozenset({"--master-addr"}),
    write=shell_script,
    start=lambda job, path: f"bash {path}{' HOST_RANK' if job.hosts > 1 else ''}",
    require=_require_address,
)
