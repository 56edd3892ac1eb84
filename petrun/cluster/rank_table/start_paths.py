"""Assign ranks to processes, for the three paths by which MindSpore can be started on the cards of a rank table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from petrun.cluster.rank_table.table import RankTable, Server
from petrun.errors import SetupError

StartPath = Literal["ranktable", "msrun", "msrun-table"]
START_PATHS: tuple[StartPath, ...] = ("ranktable", "msrun", "msrun-table")

ABOUT: dict[StartPath, str] = {
    "ranktable": "rank-table start-up, Ascend only: one process a card, without msrun. HCCL reads the table; RANK_ID and DEVICE_ID "
    "are given to the process.",
    "msrun": "msrun without a table: rank = node rank x cards of the host + process. The table is not read; DEVICE_ID is the process's "
    "number, counted within ASCEND_RT_VISIBLE_DEVICES.",
    "msrun-table": "msrun --rank_table_file: a process starts as in msrun without a table; in init() the scheduler gives it the rank at "
    "its position in the device list of the server with the host's pod_ip. device_id is ignored.",
}


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process of a host."""

    server: str
    number: int
    """Index within its host, from 0."""
    device: int
    """DEVICE_ID in its environment."""
    first_rank: int
    """RANK_ID in its environment."""
    rank: int
    """The result of get_rank() after init()."""


def processes(table: RankTable, start: StartPath) -> list[Process]:
    """Return every process, in the order of the table. Raises SetupError for msrun-table where the table would be ignored."""
    if start == "msrun-table":
        without = [server.id for server in table.servers if server.pod_ip is None]
        if without:
            raise SetupError(
                f"msrun --rank_table_file finds a host by pod_ip, which these have none of: {', '.join(without)}. "
                "MindSpore would say so in scheduler.log only, and leave the ranks as they were",
                hint="`petrun ranktable convert FILE --pod-ips A,B` adds them.",
            )
    found = []
    before = 0
    for server in table.servers:
        found += _of(server, start, before)
        before += len(server.cards)
    return found


def _of(server: Server, start: StartPath, before: int) -> list[Process]:
    if start == "ranktable":
        return [
            Process(server=server.id, number=number, device=card.device, first_rank=card.rank, rank=card.rank)
            for number, card in enumerate(server.cards)
        ]
    return [
        Process(
            server=server.id,
            number=number,
            device=number,
            first_rank=before + number,
            rank=card.rank if start == "msrun-table" else before + number,
        )
        for number, card in enumerate(server.cards)
    ]
