"""`petrun job`: write the manifest or script that submits a training job."""

from __future__ import annotations

import shlex

from petrun import console
from petrun.assets import default_recipe
from petrun.cluster.jobs.run_paths import base_on_this_machine, check_mounts
from petrun.cluster.jobs.submission import Submission, make_submission
from petrun.cluster.jobs.table import find_scheduler, foreign_options
from petrun.config.commands.job import JobSettings, TrainLine
from petrun.config.load import load_run_config
from petrun.config.schema import RunConfig
from petrun.errors import ConfigError
from petrun.parallel.layout import complete_layout
from petrun.tensors.output import write_new


def run(settings: JobSettings, line: TrainLine) -> None:
    """Write or print the text for the scheduler of --to. `line`: the command line of `petrun train` that the job runs.

    Raises ConfigError with what is wrong, in the settings or in the line, and OutputError for a file that exists.
    """
    to, out, training = settings.to, settings.out, line.settings
    scheduler = find_scheduler(to)
    given = settings.given()
    foreign = foreign_options(scheduler, list(given))
    if foreign:
        raise ConfigError(f"{', '.join(foreign)}: nothing that --to {to} has", hint="Leave it out.")
    job = make_submission(line.arguments, given, training.grace)
    # The job itself would refuse a wrong line, but only after it has waited in the queue. This check needs no data, model or card.
    config = load_run_config(training.recipe, training.flags, training.sets, embedded=default_recipe()).config
    scheduler.require(job)
    if scheduler.in_container:
        check_mounts(job, config, training.recipe)
    _check_layout(config, job)
    _check_out(config, job)
    text = scheduler.write(job)
    remark = scheduler.remark(job)
    if remark is not None:
        console.print_to_stderr(remark)
    if out is None:
        console.print(text.rstrip("\n"))
        return
    path = write_new("--out", out, text, settings.force, [])
    console.print(f"wrote {path}; start it with: {scheduler.start(job, shlex.quote(str(path)))}")


def _check_layout(config: RunConfig, job: Submission) -> None:
    """Raises ConfigError where the layout does not fit the cards, or the base where its config.json is on this machine."""
    base = base_on_this_machine(job, config)
    if base is not None and max(config.parallel.tp, config.parallel.pp) > 1:
        # Imported here because it loads MindSpore.
        from petrun.training.setup.resolve_layout import resolve_layout

        resolve_layout(config.model_copy(update={"model": config.model.model_copy(update=base)}), job.cards)
    else:
        complete_layout(config.parallel, job.cards)


def _check_out(config: RunConfig, job: Submission) -> None:
    """Raises ConfigError where several hosts or starts need one run folder and --out does not name it."""
    if config.out.dir is not None:
        return
    if job.hosts > 1:
        problem = f"--hosts {job.hosts}: the job needs --out, the same on every host"
    elif job.restarts:
        problem = f"--restarts {job.restarts}: the job needs --out, or each start would begin a run of its own"
    else:
        return
    raise ConfigError(problem, hint="Give it after --: -- --out /shared/run")
