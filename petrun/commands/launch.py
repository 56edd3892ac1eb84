"""`petrun train --cards N`: everything that can be found out before a rank is started, and then the ranks."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from petrun.assets import default_recipe
from petrun.cluster.hosts import Hosts
from petrun.cluster.interpreter import module_command
from petrun.cluster.launch import Job, JobOutput, check_start, launch
from petrun.cluster.rank_table.start import TableStart, read_start
from petrun.cluster.ranks import Cluster, make_cluster
from petrun.cluster.world import start_up
from petrun.config.load import load_run_config
from petrun.config.schema import RunConfig
from petrun.console import print_to_stderr
from petrun.errors import ConfigError, SetupError
from petrun.parallel.context import cards_here, find_target
from petrun.tensors.atomic import output_error
from petrun.training import run_folder
from petrun.training.checkpointing.resume import find_resumed
from petrun.training.preflight import host_checks as preflight
from petrun.training.setup.resolve_layout import check_device, resolve_layout


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """The flags that start ranks, as typed; None: not given."""

    cards: int | None = None
    hosts: int | None = None
    host_rank: int | None = None
    master_addr: str | None = None
    master_port: int | None = None
    rank_table: str | None = None
    max_restarts: int | None = None
    grace: float | None = None
    log_dir: str | None = None

    def flags(self) -> dict[str, Any]:
        """Those that were given: {"--host-rank": 1}."""
        named = {f"--{field.name.replace('_', '-')}": getattr(self, field.name) for field in fields(self)}
        return {flag: value for flag, value in named.items() if value is not None}

    def place(self) -> str:
        """Those that say which ranks are started, as a shell reads them."""
        said = ("--cards", "--hosts", "--host-rank", "--master-addr", "--master-port", "--rank-table")
        given = self.flags()
        return shlex.join(word for flag in said if flag in given for word in (flag, str(given[flag])))


def starts_ranks(asked: LaunchOptions) -> bool:
    """Whether this process is to start ranks. Not where it is one: there --cards may say what is so, and nothing else.

    Raises ConfigError.
    """
    given = asked.flags()
    if not given or (how := start_up()) == "alone":
        return bool(given)
    size = os.environ.get("MS_WORKER_NUM") or os.environ.get("RANK_SIZE")
    wrong = [flag for flag, value in given.items() if flag != "--cards" or str(value) != size]
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)}: this process is a rank already, of {size or '?'} (start-up: {how})",
            hint="Either petrun starts the ranks or msrun does: leave the flag out, or run petrun by itself.",
        )
    return False


@dataclass(frozen=True, kw_only=True)
class Command:
    """What `petrun train` was told, beside the ranks."""

    recipe: str | None
    flags: Mapping[str, tuple[str, Any]]
    sets: Sequence[str]
    arguments: Callable[[Sequence[str]], Sequence[str]]
    """Options to add -> the command line of a rank."""
    resume: str | None = None
    allowed: Sequence[str] = ()
    dry_run: bool = False
    preflight: bool = False
    """Check the start of the job, and end."""

    @property
    def trains_nothing(self) -> bool:
        return self.dry_run or self.preflight


def run(command: Command, asked: LaunchOptions, voice: JobOutput) -> int:
    """Check the job, start its ranks here and see them to their end. Returns the exit code.

    Raises ConfigError, SetupError and OutputError before anything starts.
    """
    recipe, flags = command.recipe, command.flags
    if command.resume is not None:
        found = find_resumed(command.resume, recipe, flags, command.sets, allowed=command.allowed)
        if found is None:
            return 0
        recipe, flags = found.recipe, found.flags
    config = load_run_config(recipe, flags, command.sets, embedded=default_recipe()).config
    target = find_target(config.device)
    cluster = _cluster(asked, target)
    _check(config, cluster, target)
    check_start(cluster)
    hosts = _hosts(cluster, asked, voice)
    with hosts if hosts is not None else nullcontext():
        if hosts is not None:
            hosts.meet()
        if hosts is not None or command.preflight:
            preflight.check(preflight.Start(config, cluster, target, command.resume is not None), hosts, voice.out)
        return _start(config, cluster, command, asked, hosts, voice)


def _start(
    config: RunConfig,
    cluster: Cluster | TableStart,
    command: Command,
    asked: LaunchOptions,
    hosts: Hosts | None,
    voice: JobOutput,
) -> int:
    """The ranks, with a place for their logs. Returns the exit code."""
    logs, added = _place(config, command, cluster, hosts)
    temporary = _temporary_logs() if command.trains_nothing and asked.log_dir is None else None
    if temporary is not None:
        logs = temporary
    elif asked.log_dir is not None:
        logs = Path(asked.log_dir).expanduser()
    if cluster.hosts > 1:
        # On a disk that the hosts share, each counts its own attempts.
        logs = logs / f"host-{cluster.host_rank}"
    job = Job(
        command=module_command("petrun", *command.arguments(added)),
        scheduler=module_command("petrun", "train"),
        cluster=cluster,
        logs=logs,
        max_restarts=0 if command.preflight else asked.max_restarts or 0,
        grace_seconds=30.0 if asked.grace is None else asked.grace,
        hosts=hosts,
        resume_flags=asked.place(),
    )
    code = launch(job, voice)
    if temporary is not None and code == 0:
        shutil.rmtree(temporary)
    # Only a folder that took its number here, not one that the user named.
    if code and added and (moved := run_folder.rename_failed(Path(added[1]))) is not None:
        voice.err(f"nothing was trained: its logs lie in {moved} now, and the next run takes the number")
    return code


def _hosts(cluster: Cluster | TableStart, asked: LaunchOptions, voice: JobOutput) -> Hosts | None:
    """The petruns of the other hosts; None where there are none, or where a rank table starts the ranks of each host by themselves."""
    if not isinstance(cluster, Cluster) or cluster.hosts == 1:
        return None
    return Hosts(cluster, max_restarts=asked.max_restarts or 0, say=voice.err, environment=os.environ)


def _place(
    config: RunConfig, command: Command, cluster: Cluster | TableStart, hosts: Hosts | None
) -> tuple[Path, list[str]]:
    """The folder of the logs, and what tells the ranks of a run folder that they cannot find out. Raises OutputError."""
    if command.resume is not None:
        return Path(command.resume).expanduser() / run_folder.LOGS, []
    out, _ = run_folder.choose(config.out.dir, config.algo, config.out.format)
    if command.trains_nothing:
        return out.path / run_folder.LOGS, []
    # All ranks and attempts share one folder, which takes its number now. Host 0 makes it, and the others use it.
    if hosts is not None and cluster.host_rank > 0:
        hosts.exchange(None)
    shared = cluster.hosts > 1 and (hosts is None or cluster.host_rank > 0)
    out = (replace(out, new=False) if shared else out).create()
    if hosts is not None and cluster.host_rank == 0:
        hosts.exchange(None)
    return out.path / run_folder.LOGS, [] if config.out.dir else ["--out", str(out.path)]


def _cluster(asked: LaunchOptions, target: str) -> Cluster | TableStart:
    """The ranks that the flags ask for. Raises ConfigError and SetupError."""
    for flag, value in (("--max-restarts", asked.max_restarts), ("--grace", asked.grace)):
        if value is not None and value < 0:
            raise ConfigError(f"{flag} {value:g}: must be at least 0")
    if asked.rank_table is None:
        shape = make_cluster(asked.cards, asked.hosts, asked.host_rank, asked.master_addr, asked.master_port)
        _enough_cards(shape.local, target)
        return shape
    wrong = [flag for flag in ("--hosts", "--master-addr", "--master-port") if flag in asked.flags()]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)}: the rank table says that", hint="Leave it out beside --rank-table.")
    if target != "ascend":
        raise SetupError(
            f"--rank-table {asked.rank_table}: start-up by rank table is for Ascend, and this run computes on the cpu",
            hint="Here --cards N starts N ranks. `petrun ranktable lint` checks a table on any machine.",
        )
    start = read_start(asked.rank_table, asked.host_rank, print_to_stderr)
    if asked.cards not in (None, start.cards):
        raise ConfigError(f"--cards {asked.cards}: the rank table has {start.cards}", hint="Leave --cards out.")
    _enough_cards(len(start.devices), target)
    return start


def _enough_cards(wanted: int, target: str) -> None:
    found = cards_here() if target == "ascend" else None
    if found is not None and wanted > found:
        raise SetupError(
            f"{wanted} cards of this host are asked for, and MindSpore finds {found}",
            hint="--cards counts the cards of all hosts. ASCEND_RT_VISIBLE_DEVICES may hide some.",
        )


def _check(config: RunConfig, cluster: Cluster | TableStart, target: str) -> None:
    """What every rank would find out, each by itself."""
    if target == "cpu" or not config.parallel.auto:
        check_device(config, resolve_layout(config, cluster.cards), target)
    if cluster.hosts > 1 and config.out.dir is None:
        many = f"--hosts {cluster.hosts}" if isinstance(cluster, Cluster) else f"--rank-table: {cluster.hosts} servers"
        raise ConfigError(
            f"{many}: needs --out, the same on every host",
            hint="A number that each host takes for itself may differ.",
        )


def _temporary_logs() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="petrun-logs-"))
    except OSError as error:
        raise output_error(Path(tempfile.gettempdir()), error) from error
