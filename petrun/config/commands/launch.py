"""The flags that start the ranks of a job."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields

from petrun.config.options import CLUSTER, option, option_of


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Which ranks are started, and how; None: not given."""

    cards: int | None = option(
        "--cards",
        "Train on this many cards (on the CPU: processes), of all hosts together: petrun starts a rank for each, and ends them all "
        "when one fails. Default: this process alone.",
        CLUSTER,
    )
    hosts: int | None = option(
        "--hosts", "Hosts of the job; on each of them the same command is run. Default 1.", CLUSTER
    )
    host_rank: int | None = option("--host-rank", "Which of the hosts this is, from 0.", CLUSTER)
    master_addr: str | None = option("--master-addr", "Address of host 0, as the others reach it.", CLUSTER)
    master_port: int | None = option(
        "--master-port", "Port of the scheduler on host 0. Default: one host, a free one; several, 8118.", CLUSTER
    )
    rank_table: str | None = option(
        "--rank-table",
        "Start the ranks that this HCCL rank table gives this host, one process a card, without a scheduler (Ascend).",
        CLUSTER,
    )
    max_restarts: int | None = option(
        "--max-restarts", "Start all ranks again up to this often where one fails. Default 0.", CLUSTER
    )
    grace: float | None = option(
        "--grace", "Seconds that ranks have to save and end when petrun is stopped, before force. Default 30.", CLUSTER
    )
    log_dir: str | None = option(
        "--log-dir", "Folder for the output of each rank. Default logs in the run folder.", CLUSTER
    )

    def launch_flags(self) -> dict[str, str | int | float]:
        """Those that were given: {"--host-rank": 1}."""
        named = {how.flag: getattr(self, one.name) for one in fields(LaunchOptions) if (how := option_of(one))}
        return {flag: value for flag, value in named.items() if value is not None}

    def rank_flags(self) -> str:
        """Those that say which ranks are started, as a shell reads them."""
        said = ("--cards", "--hosts", "--host-rank", "--master-addr", "--master-port", "--rank-table")
        given = self.launch_flags()
        return shlex.join(word for flag in said if flag in given for word in (flag, str(given[flag])))


LAUNCH_FIELDS = tuple(one.name for one in fields(LaunchOptions))
