"""`petrun train --cards N`: check everything that can be checked before a rank starts, then start the ranks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace

from petrun import console
from petrun.assets import default_recipe
from petrun.cluster.launch import Job, JobOutput, check_start, launch
from petrun.cluster.launch_options import resolve_cluster
from petrun.cluster.other_hosts.hosts import Hosts
from petrun.cluster.processes.interpreter import module_command
from petrun.cluster.rank_table.start import TableStart
from petrun.cluster.ranks import Cluster
from petrun.config.commands.launch import LaunchOptions
from petrun.config.commands.train import TrainSettings
from petrun.config.load import load_run_config
from petrun.config.schema import RunConfig
from petrun.errors import ConfigError
from petrun.parallel.context import find_target
from petrun.training.checkpointing.resume import find_resumed
from petrun.training.job_logs import JobLogs, make_job_logs
from petrun.training.preflight.host_checks import JobStart, check_hosts
from petrun.training.run_folder import rename_failed
from petrun.training.setup.resolve_layout import check_device, resolve_layout

Arguments = Callable[[Sequence[str]], Sequence[str]]
"""Options to add -> the command line of a rank."""


def run(settings: TrainSettings, arguments: Arguments, output: JobOutput) -> int:
    """Check the job, start its ranks here and wait for them. Returns the exit code.

    Raises ConfigError, SetupError and OutputError before anything starts.
    """
    recipe, flags, sets = settings.recipe, settings.flags, settings.sets
    if settings.resume is not None:
        found = find_resumed(settings.resume, recipe, flags, sets, allowed=settings.allow)
        if found is None:
            return 0
        recipe, flags = found.recipe, found.flags
    config = load_run_config(recipe, flags, sets, embedded=default_recipe()).config
    target = find_target(config.device)
    cluster = resolve_cluster(settings, target, output.err)
    _check(config, cluster, target)
    check_start(cluster)
    hosts = _other_hosts(cluster, settings, output)
    with hosts if hosts is not None else nullcontext():
        if hosts is not None:
            hosts.connect_all()
        if hosts is not None or settings.preflight:
            check_hosts(JobStart(config, cluster, target, settings.resume is not None), hosts, output.out)
        logs = make_job_logs(
            config, cluster, hosts,
            resume=settings.resume, log_dir=settings.log_dir, keeps_nothing=settings.trains_nothing,
        )  # fmt: skip
        return _run_job(_job(settings, arguments, cluster, hosts, logs), logs, output)


def _check(config: RunConfig, cluster: Cluster | TableStart, target: str) -> None:
    """Raises ConfigError and SetupError for errors that every rank would find by itself."""
    if target == "cpu" or not config.parallel.auto:
        check_device(config, resolve_layout(config, cluster.cards), target)
    if cluster.hosts > 1 and config.out.dir is None:
        many = f"--hosts {cluster.hosts}" if isinstance(cluster, Cluster) else f"--rank-table: {cluster.hosts} servers"
        raise ConfigError(
            f"{many}: needs --out, the same on every host",
            hint="A number that each host takes for itself may differ.",
        )


def _other_hosts(cluster: Cluster | TableStart, options: LaunchOptions, output: JobOutput) -> Hosts | None:
    """Connect to petrun on the other hosts; None for one host, and where a rank table starts each host by itself."""
    if not isinstance(cluster, Cluster) or cluster.hosts == 1:
        return None
    return Hosts(cluster, max_restarts=options.max_restarts or 0, show=output.err, environment=os.environ)


def _job(
    settings: TrainSettings, arguments: Arguments, cluster: Cluster | TableStart, hosts: Hosts | None, logs: JobLogs
) -> Job:
    return Job(
        command=module_command("petrun", *arguments(logs.rank_options)),
        scheduler=module_command("petrun", "train"),
        cluster=cluster,
        logs=logs.folder,
        max_restarts=0 if settings.preflight else settings.max_restarts or 0,
        grace_seconds=30.0 if settings.grace is None else settings.grace,
        hosts=hosts,
        resume_flags=settings.rank_flags(),
    )


def _run_job(job: Job, logs: JobLogs, output: JobOutput) -> int:
    """Run the job and clean up its logs. Returns its exit code."""
    ranks = len(job.cluster.ranks)
    with ExitStack() as starting:
        starting.enter_context(console.working(f"starting {ranks} ranks" if ranks > 1 else "starting a rank"))

        def out(line: str) -> None:
            starting.close()
            output.out(line)

        code = launch(job, replace(output, out=out))
    if logs.temporary is not None and code == 0:
        shutil.rmtree(logs.temporary)
    if code and logs.numbered_run is not None and (kept := rename_failed(logs.numbered_run)) is not None:
        output.err(f"nothing was trained: its logs lie in {kept} now, and the next run takes the number")
    return code
