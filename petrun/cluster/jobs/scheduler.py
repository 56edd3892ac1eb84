"""Define the record of a scheduler: everything that `petrun job` and its command line need to know about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from petrun.cluster.jobs.submission import Submission


def _requires_nothing(job: Submission) -> None:
    """A check that every job passes."""


def _no_remark(job: Submission) -> str | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """A system that starts a job on the hosts of a cluster, and the script or manifest for it."""

    name: str
    """The value of --to."""
    about: str
    """A description of the written text, for the help of --to."""
    options: frozenset[str]
    """The options of `petrun job` that this scheduler takes and not every one does: "--image"."""
    write: Callable[[Submission], str]
    """A checked job -> the text of its manifest or script."""
    start: Callable[[Submission, str], str]
    """(job, path of the written file in shell quotes) -> the command line that starts the job."""
    require: Callable[[Submission], None] = _requires_nothing
    """Raises ConfigError for a job that lacks what this scheduler needs."""
    remark: Callable[[Submission], str | None] = _no_remark
    """Returns a remark on a value that petrun chose for the user; None where there is none."""
    in_container: bool = False
    """The job runs in a container, which sees the folders of its mounts and of its image only."""
