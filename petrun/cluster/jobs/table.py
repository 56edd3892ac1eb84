"""List the schedulers that `petrun job` writes for: a new one is a file of its own and a line here."""

from __future__ import annotations

from petrun.cluster.jobs.ascend import ASCEND_JOB
from petrun.cluster.jobs.scheduler import Scheduler
from petrun.cluster.jobs.shell import SHELL
from petrun.cluster.jobs.slurm import SLURM
from petrun.cluster.jobs.volcano import VOLCANO
from petrun.errors import ConfigError, did_you_mean

SCHEDULERS: dict[str, Scheduler] = {one.name: one for one in (VOLCANO, ASCEND_JOB, SLURM, SHELL)}


def find_scheduler(name: str) -> Scheduler:
    """Return the scheduler of this name. Raises ConfigError for an unknown name."""
    if name not in SCHEDULERS:
        raise ConfigError(f"--to {name}: unknown. {did_you_mean(name, SCHEDULERS)}")
    return SCHEDULERS[name]


def foreign_options(scheduler: Scheduler, options: list[str]) -> list[str]:
    """Return the options that other schedulers take and this one does not."""
    particular = frozenset[str]().union(*(one.options for one in SCHEDULERS.values()))
    return [option for option in options if option in particular - scheduler.options]
