"""Define HCCL rank tables, v1.0 (Atlas A1, A2) and v1.2 (A3 super pods): which rank runs on which server and device.

    {"version": "1.0", "status": "completed", "server_count": "1",
     "server_list": [{"server_id": "10.0.0.1",
                      "device": [{"device_id": "0", "device_ip": "192.168.100.101", "rank_id": "0"}, ...]}]}

Every scalar is a string. v1.2 adds super_device_id to a device, and super_pod_list: which servers make a super pod. A table is
read (read.py) in two steps: its fields are parsed one by one (parse.py), then checked against each other (rules.py). The format before
1.0 has group_list instead (group_list.py).

Source: HCCL itself, the repository hcomm of CANN, src/framework/common/src: config.cc (which checks are made), and of its folder topo
topoinfo_ranktableParser.cc (the file), topoinfo_ranktableConcise.cc (versions 1.0 and 1.2) and topoinfo_ranktableStandard.cc (without a
version). A Problem names the function that refuses the table. Also MindSpore's documentation of rank-table start-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from petrun.errors import SetupError

Version = Literal["1.0", "1.2"]
VERSIONS: tuple[Version, ...] = ("1.0", "1.2")

# The keys of a server and of a card, in the order in which they are written.
SERVER_ADDRESSES = ("host_ip", "pod_ip", "container_ip")
CARD_ADDRESSES = ("device_ip", "backup_device_ip")
CARD_PORTS = ("device_port", "backup_device_port", "host_port", "device_vnic_port")
CARD_TEXTS = ("super_device_id", *CARD_PORTS)

Product = Literal["a1", "a2", "a3"]
"""Atlas A1 (Ascend 910), A2 (910B) and A3 (910C, which HCCL calls 910_93): HCCL's rules differ between them."""
PRODUCTS: dict[str, Product] = {"a1": "a1", "910": "a1", "a2": "a2", "910b": "a2", "a3": "a3", "910c": "a3"}
"""The names that a user may give for the products."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One device of a server."""

    rank: int
    device: int
    """Physical, as npu-smi counts."""
    device_ip: str | None = None
    """One address, or several with commas between them."""
    super_device_id: str | None = None
    device_port: str | None = None
    backup_device_ip: str | None = None
    backup_device_port: str | None = None
    host_port: str | None = None
    device_vnic_port: str | None = None

    @property
    def device_ips(self) -> list[str]:
        return split_addresses(self.device_ip)

    @property
    def backup_device_ips(self) -> list[str]:
        return split_addresses(self.backup_device_ip)


def split_addresses(text: str | None) -> list[str]:
    """Split `a,b` into [a, b], as HCCL does: a comma at the end is ignored. Source: SplitString of topoinfo_ranktableConcise.cc."""
    return (text.removesuffix(",")).split(",") if text else []


@dataclass(frozen=True, kw_only=True)
class Server:
    """One host, with its cards in the order of the table, by which msrun counts."""

    id: str
    cards: tuple[Card, ...]
    host_ip: str | None = None
    pod_ip: str | None = None
    container_ip: str | None = None
    host_nic_ip: str | None = None
    hardware_type: str | None = None

    def is_called(self, name: str) -> bool:
        return name in (self.id, self.host_ip, self.pod_ip, self.container_ip)


@dataclass(frozen=True)
class SuperPod:
    """Servers whose cards share one high-speed fabric."""

    id: str
    server_ids: tuple[str, ...]


@dataclass(frozen=True)
class RankTable:
    version: Version
    servers: tuple[Server, ...]
    super_pods: tuple[SuperPod, ...] = ()
    from_groups: bool = False
    """Whether it was read from the format before 1.0."""

    @property
    def product(self) -> Product:
        """The product of its version, where the user does not name one."""
        return "a2" if self.version == "1.0" else "a3"

    @property
    def cards(self) -> int:
        """Cards of all servers."""
        return sum(len(server.cards) for server in self.servers)

    def __str__(self) -> str:
        """Describe the table: `version 1.0, 2 servers with 8 cards`."""
        pods = f", super pods {', '.join(pod.id for pod in self.super_pods)}" if self.super_pods else ""
        servers = f"{len(self.servers)} servers with" if len(self.servers) > 1 else "1 server with"
        counts = dict.fromkeys(len(server.cards) for server in self.servers)
        return f"version {self.version}, {servers} {' and '.join(map(str, counts))} cards{pods}"

    def server(self, name: str, flag: str = "--host") -> Server:
        """Return the server with this id or address, or at this position from 0. Raises SetupError naming the servers."""
        found = [server for server in self.servers if server.is_called(name)]
        if not found and name.isdecimal() and int(name) < len(self.servers):
            found = [self.servers[int(name)]]
        if len(found) != 1:
            known = ", ".join(server.id for server in self.servers)
            raise SetupError(
                f"{flag} {name}: {'no' if not found else 'more than one'} server of the rank table",
                hint=f"Servers: {known}; or their position, from 0.",
            )
        return found[0]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A problem of a table: its text and the object that has it."""

    where: str
    text: str
    fatal: bool = True
    """Whether HCCL or MindSpore would not start, or would start something else. False: only some start-up paths refuse it."""
    source: str = ""
    """The function of HCCL that refuses it, or the document that forbids it."""

    def __str__(self) -> str:
        text = f"{self.where}: {self.text}" if self.where else self.text
        return f"{text} [{self.source}]" if self.source else text
