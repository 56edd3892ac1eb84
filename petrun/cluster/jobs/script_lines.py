"""Write the lines that the scripts of all schedulers share: strict mode, the command line of `petrun train` on a host."""

from __future__ import annotations

import shlex

from petrun.cluster.jobs.submission import Submission


def strict_lines(job: Submission) -> list[str]:
    """Return the user's lines of set-up, and the options by which an error or an unset variable ends the script.

    `set -u` is after the set-up: CANN's set_env.sh appends to variables that are not set, such as PYTHONPATH.
    """
    return ["set -eo pipefail", *job.setup, "set -u"] if job.setup else ["set -euo pipefail"]


def train_command(job: Submission, rank: str, address: str, port: str | None) -> str:
    """Return `exec petrun train ...` as one host of the job; `rank`, `address`, `port`: shell words."""
    train = shlex.join(("petrun", "train", *job.command))
    flags = f"--cards {job.cards}"
    if job.hosts > 1:
        flags += f" --hosts {job.hosts} --host-rank {rank} --master-addr {address}"
    if port:
        flags += f" --master-port {port}"
    return f"exec {train} {flags}"


def size_text(job: Submission) -> str:
    """Return the job's cards and hosts for a comment: `16 cards on 2 hosts`."""
    return f"{job.cards} cards on {job.hosts} host{'s' if job.hosts > 1 else ''}"
