"""Start ranks by a rank table (Ascend): HCCL reads it, every process gets its rank and card, and no scheduler is needed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from petrun.cluster.ports import is_local
from petrun.cluster.rank_table.read import HCCL_WAITS_SECONDS, name_problem, read_rank_table, wait
from petrun.cluster.rank_table.table import RankTable, Server
from petrun.cluster.ranks import host_environment
from petrun.errors import SetupError

_VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
_OTHER_WAYS = ("MS_ROLE", "MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT", "MS_NODE_ID", "MINDSPORE_HCCL_CONFIG_PATH")


@dataclass(frozen=True, kw_only=True)
class TableStart:
    """The job that a rank table describes, and this host's part of it."""

    path: Path
    cards: int
    """The number of cards of all servers."""
    devices: Mapping[int, int]
    """Rank -> device, as npu-smi counts, of this host."""
    hosts: int = 1
    host_rank: int = 0
    """The position of this server in the table."""

    @property
    def ranks(self) -> list[int]:
        """Ranks of this host."""
        return sorted(self.devices)


def read_start(file: str, host_rank: int | None, tell: Callable[[str], None] = lambda text: None) -> TableStart:
    """Read the part of a rank table that concerns this host. `host_rank`: the server's position in it; None: the server with an address of
    this host. Waits for a table that its scheduler has not filled in yet, as long as HCCL would, and reports that to `tell`.

    Raises SetupError for a table that HCCL would refuse, and where no server, or more than one, is this host.
    """
    path = Path(file).expanduser().absolute()
    if (named := name_problem(path)) is not None:
        raise SetupError(f"--rank-table {file}: {named}", hint="Give the file another name or place.")
    wait(path, HCCL_WAITS_SECONDS, tell)
    table = read_rank_table(path)
    if table.from_groups:
        raise SetupError(
            f"--rank-table {file}: is of the format before version 1.0, in which HCCL numbers the ranks itself",
            hint=f"petrun ranktable convert {shlex.quote(file)} --out hccl.json",
        )
    server = table.server(str(host_rank), "--host-rank") if host_rank is not None else own_server(table, file)
    devices = {card.rank: card.device for card in server.cards}
    return TableStart(
        path=path, cards=table.cards, devices=devices, hosts=len(table.servers), host_rank=table.servers.index(server)
    )


def own_server(table: RankTable, file: str) -> Server:
    if len(table.servers) == 1:
        return table.servers[0]
    own = [server for server in table.servers if any(map(is_local, addresses_of(server)))]
    if len(own) != 1:
        raise SetupError(
            f"--rank-table {file}: {'no server has' if not own else 'more than one server has'} an address of this host",
            hint="Say which one this host is: --host-rank 0 is the table's first. Servers: "
            + ", ".join(server.id for server in table.servers),
        )
    return own[0]


def addresses_of(server: Server) -> list[str]:
    return [address for address in (server.id, server.host_ip, server.pod_ip, server.container_ip) if address]


def table_environment(base: Mapping[str, str], start: TableStart, rank: int) -> dict[str, str]:
    """Return the environment that makes a process this rank. Raises SetupError where its card is hidden from this job."""
    kept = {key: value for key, value in base.items() if key not in _OTHER_WAYS}
    return {
        **host_environment(kept, len(start.devices)),
        "RANK_TABLE_FILE": str(start.path),
        "RANK_ID": str(rank),
        "RANK_SIZE": str(start.cards),
        "DEVICE_ID": str(_logical(start.devices[rank], base.get(_VISIBLE, ""))),
    }


def _logical(device: int, visible: str) -> int:
    """Return DEVICE_ID, an index among the cards that a process may see, of a device, an index among all cards of the host."""
    if not visible.strip():
        return device
    seen = [part.strip() for part in visible.split(",")]
    if str(device) not in seen:
        raise SetupError(
            f"the rank table gives this host device {device}, which {_VISIBLE}={visible} hides",
            hint=f"Name every device of the table in {_VISIBLE}, or unset it.",
        )
    return seen.index(str(device))
