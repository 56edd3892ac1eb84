"""Start the ranks of `petrun train`, each with the same command line without the flags that start ranks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any

from petrun import console
from petrun.cli.command import Command
from petrun.config.commands.train import TrainSettings


def launch(settings: TrainSettings, command: Command[Any]) -> int | None:
    """Start the ranks and wait for them. Returns the exit code; None where this process is one of them, or no ranks are asked for.

    `command`: what was typed on this program's command line.
    """
    given = settings.launch_flags()
    if not given:
        return None
    from petrun.cluster.launch import JobOutput
    from petrun.cluster.launch_options import starts_ranks
    from petrun.commands import launch as ranks

    if not starts_ranks(settings):
        return None
    arguments = partial(rank_arguments, sys.argv[1:], command, given)
    return ranks.run(settings, arguments, JobOutput(out=console.print, err=console.print_to_stderr))


def rank_arguments(
    arguments: Sequence[str], command: Command[Any], flags: Iterable[str], added: Sequence[str]
) -> list[str]:
    """Return this program's arguments without these flags and their values, and with some added after the command's name.

    `command`: its options tell a flag from the value of another flag.
    """
    dropped = set(flags)
    valued = {one.option.flag for one in command.given if one.option.flag and not one.is_switch}
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
    position = kept.index(command.name) + 1
    return [*kept[:position], *added, *kept[position:]]
