"""Decide by the options of the command line whether this process starts ranks, and which."""

from __future__ import annotations

import os
from collections.abc import Callable

from petrun.cluster.rank_table.start import TableStart, read_start
from petrun.cluster.ranks import Cluster, make_cluster
from petrun.cluster.world import start_up
from petrun.config.commands.launch import LaunchOptions
from petrun.errors import ConfigError, SetupError
from petrun.parallel.context import cards_here


def starts_ranks(options: LaunchOptions) -> bool:
    """Return whether this process starts ranks. A process that is a rank itself does not; it accepts --cards with the job's size only.

    Raises ConfigError.
    """
    given = options.launch_flags()
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


def resolve_cluster(options: LaunchOptions, target: str, show: Callable[[str], None]) -> Cluster | TableStart:
    """Return the ranks that the options ask for, on `target` ("cpu" or "ascend"). `show` prints what is waited for.

    Raises ConfigError and SetupError.
    """
    for flag, value in (("--max-restarts", options.max_restarts), ("--grace", options.grace)):
        if value is not None and value < 0:
            raise ConfigError(f"{flag} {value:g}: must be at least 0")
    if options.rank_table is None:
        cluster = make_cluster(
            options.cards, options.hosts, options.host_rank, options.master_addr, options.master_port
        )
        _require_cards(cluster.local, target)
        return cluster
    wrong = [flag for flag in ("--hosts", "--master-addr", "--master-port") if flag in options.launch_flags()]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)}: the rank table says that", hint="Leave it out beside --rank-table.")
    if target != "ascend":
        raise SetupError(
            f"--rank-table {options.rank_table}: start-up by rank table is for Ascend, and this run computes on the cpu",
            hint="Here --cards N starts N ranks. `petrun ranktable lint` checks a table on any machine.",
        )
    start = read_start(options.rank_table, options.host_rank, show)
    if options.cards not in (None, start.cards):
        raise ConfigError(f"--cards {options.cards}: the rank table has {start.cards}", hint="Leave --cards out.")
    _require_cards(len(start.devices), target)
    return start


def _require_cards(wanted: int, target: str) -> None:
    """Raises SetupError where this host has fewer cards."""
    found = cards_here() if target == "ascend" else None
    if found is not None and wanted > found:
        raise SetupError(
            f"{wanted} cards of this host are asked for, and MindSpore finds {found}",
            hint="--cards counts the cards of all hosts. ASCEND_RT_VISIBLE_DEVICES may hide some.",
        )
