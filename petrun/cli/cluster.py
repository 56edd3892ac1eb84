"""The flags of `petrun train` that start ranks, and the command line that these are started with: the same without the flags."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Annotated, Any

import typer

from petrun.cli.options import Number, Text, Whole, option

CLUSTER = "Cluster"

Cards = Annotated[
    Whole,
    option(
        "--cards",
        "Train on this many cards (on the CPU: processes), of all hosts together: petrun starts a rank for each, and ends them all "
        "when one fails. Default: this process alone.",
        CLUSTER,
    ),
]
Hosts = Annotated[
    Whole, option("--hosts", "Hosts of the job; on each of them the same command is run. Default 1.", CLUSTER)
]
HostRank = Annotated[Whole, option("--host-rank", "Which of the hosts this is, from 0.", CLUSTER)]
MasterAddr = Annotated[Text, option("--master-addr", "Address of host 0, as the others reach it.", CLUSTER)]
MasterPort = Annotated[
    Whole,
    option("--master-port", "Port of the scheduler on host 0. Default: one host, a free one; several, 8118.", CLUSTER),
]
RankTable = Annotated[
    Text,
    option(
        "--rank-table",
        "Start the ranks that this HCCL rank table gives this host, one process a card, without a scheduler (Ascend).",
        CLUSTER,
    ),
]
MaxRestarts = Annotated[
    Whole,
    option("--max-restarts", "Start all ranks again up to this often where one fails. Default 0.", CLUSTER),
]
Grace = Annotated[
    Number,
    option(
        "--grace", "Seconds that ranks have to save and end when petrun is stopped, before force. Default 30.", CLUSTER
    ),
]
LogDir = Annotated[
    Text, option("--log-dir", "Folder for the output of each rank. Default logs in the run folder.", CLUSTER)
]


NAMES = (
    "cards", "hosts", "host_rank", "master_addr", "master_port", "rank_table", "max_restarts", "grace", "log_dir"
)  # fmt: skip
"""The parameters of these flags."""


def given_flags(typed: Mapping[str, Any]) -> dict[str, Any]:
    """Those that were typed, by their parameter's name."""
    return {name: typed[name] for name in NAMES if typed[name] is not None}


def flag(name: str) -> str:
    """As it is typed."""
    return f"--{name.replace('_', '-')}"


def launch(
    context: typer.Context,
    asked: Mapping[str, Any],
    settings: tuple[str | None, Mapping[str, tuple[str, Any]], Sequence[str]],
    *,
    resume: str | None,
    allowed: Sequence[str] = (),
    dry_run: bool = False,
    preflight: bool = False,
) -> int | None:
    """Start the ranks and see them to their end. Returns the exit code; None where this process is one of them.

    `settings`: recipe, flags and --set; `allowed`: of --allow.
    """
    from petrun.cluster.launch import JobOutput
    from petrun.cluster.launch_options import LaunchOptions, starts_ranks
    from petrun.commands import launch as ranks

    options = LaunchOptions(**asked)
    if not starts_ranks(options):
        return None
    arguments = partial(rank_arguments, sys.argv[1:], context, options.given())
    recipe, given, sets = settings
    command = ranks.Command(
        recipe=recipe,
        flags=given,
        sets=sets,
        arguments=arguments,
        resume=resume,
        allowed=allowed,
        dry_run=dry_run,
        preflight=preflight,
    )
    return ranks.run(command, options, JobOutput(out=typer.echo, err=partial(typer.echo, err=True)))


def rank_arguments(
    arguments: Sequence[str], context: typer.Context, flags: Iterable[str], added: Sequence[str]
) -> list[str]:
    """This program's arguments without these flags and their values, and with some added behind the command's name.

    `context`: of the command, whose other options tell what is a flag and what is another one's value.
    """
    dropped = set(flags)
    valued = {
        name
        for parameter in context.command.params
        # By what it is, not by its class: newer versions of Typer bring their own click.
        if parameter.param_type_name == "option" and not getattr(parameter, "is_flag", False)
        for name in parameter.opts
    }
    kept: list[str] = []
    # Before the command's name there are only switches, as --debug.
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            kept += [word, *rest]
            break
        name, sign, _ = word.partition("=")
        words = [word] if sign or name not in valued else [word, *islice(rest, 1)]
        if name not in dropped:
            kept += words
    place = kept.index(str(context.info_name)) + 1
    return [*kept[:place], *added, *kept[place:]]
