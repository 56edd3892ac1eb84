"""Parse the JSON text of a rank table to a RankTable, field by field. All problems are collected before any is raised."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass, field
from pathlib import Path

from petrun.cluster.rank_table.table import (
    CARD_ADDRESSES,
    CARD_PORTS,
    CARD_TEXTS,
    SERVER_ADDRESSES,
    VERSIONS,
    Card,
    Problem,
    RankTable,
    Server,
    SuperPod,
    Version,
    split_addresses,
)
from petrun.errors import SetupError, perhaps
from petrun.typing import JsonObject

# The keys that HCCL reads, and the function that reads them; HCCL does not refuse other keys.
_READERS = {
    "status": "RefreshStatus",
    "version": "CfgGetClusterInfo",
    "server_count": "GetServerList",
    "server_list": "GetServerList",
    "server_id": "GetSingleServer",
    "host_ip": "GetSingleServer",
    "device": "GetDeviceList",
    "device_id": "GetSingleDevice",
    "rank_id": "GetSingleDevice",
    "device_ip": "GetSingleDeviceIp",
    "device_port": "GetSingleDevicePort",
    "device_vnic_port": "GetSingleDevicePort",
    "host_port": "GetSingleDeviceHostPort",
    "backup_device_ip": "GetSingleBackupDeviceIp",
    "backup_device_port": "GetSingleBackupDevicePort",
    "super_device_id": "GetSingleSuperDeviceId",
    "super_pod_list": "GetSuperPodList",
    "super_pod_id": "GetSingleSuperPod",
}
# Further keys that MindSpore, its sample for several clusters and MindCluster write.
_TABLE = ("version", "status", "server_count", "server_list", "super_pod_list", "cluster_list")
_SERVER = ("server_id", "device", *SERVER_ADDRESSES, "host_nic_ip", "hardware_type", "server_ip")
_CARD = ("device_id", "rank_id", *CARD_ADDRESSES, *CARD_TEXTS, "dpu_ip", "numa_id", "device_logical_id")
_POD = ("super_pod_id", "server_list")
_LARGEST_BYTES = 64 << 20


def load_json(path: Path) -> JsonObject:
    """Return the file as a JSON object. Raises SetupError naming the line."""
    try:
        if path.is_file() and path.stat().st_size > _LARGEST_BYTES:
            raise SetupError(f"rank table {path}: is no rank table: it is larger than any")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SetupError(
            f"rank table {path}: cannot be read: {error.strerror or error}",
            hint="`petrun ranktable make` writes one.",
        ) from error
    except UnicodeDecodeError as error:
        raise SetupError(f"rank table {path}: is not UTF-8 text (byte {error.start})") from error
    try:
        content = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise SetupError(f"rank table {path}, line {error.lineno}: is not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise SetupError(f"rank table {path}: {error}") from error
    if not isinstance(content, dict):
        raise SetupError(f"rank table {path}: must be a JSON object, not a {type(content).__name__}")
    return content


def _unique(pairs: list[tuple[str, object]]) -> JsonObject:
    found: JsonObject = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} stands twice in one object")
        found[key] = value
    return found


@dataclass
class CheckedObject:
    """One JSON object of a rank table, and the problems that were found in its fields."""

    content: JsonObject
    where: str
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, key: str, text: str) -> None:
        """Record a problem with this key's value; it is fatal where HCCL reads the key."""
        reader = _READERS.get(key)
        self.problems.append(
            Problem(where=self.where, text=text, fatal=reader is not None, source=f"HCCL {reader}" if reader else "")
        )

    def text(self, key: str, *, needed: bool = False, may_be_empty: bool = False) -> str | None:
        value = self.content.get(key)
        if value is None and not (key in self.content and key in _READERS):
            if needed:
                self.wrong(key, f"{key} is missing")
            return None
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.wrong(key, f'{key} {value} is a number; HCCL and MindSpore want a string: "{value}"')
            return str(value)
        if not isinstance(value, str) or not (value or may_be_empty):
            self.wrong(key, f"{key} {json.dumps(value)} must be a string{'' if may_be_empty else ' that is not empty'}")
            return None
        return value or None

    def whole(self, key: str, *, needed: bool = True) -> int | None:
        value = self.text(key, needed=needed)
        if value is None:
            return None
        if not is_whole(value):
            self.wrong(key, f'{key} "{value}" must be a whole number from 0, as a string')
            return None
        return int(value)

    def port(self, key: str) -> str | None:
        value = self.text(key)
        if value is not None and not (is_whole(value) and 0 < int(value) < 65536):
            self.wrong(key, f'{key} "{value}" must be a port: a whole number from 1 to 65535, as a string')
        return value

    def addresses(self, key: str, *, several: bool = False) -> str | None:
        """Return an address, or `several` with commas between them, which may be empty then."""
        value = self.text(key, may_be_empty=several)
        for one in split_addresses(value) if several else [value]:
            if one is not None and not is_address(one):
                self.wrong(key, f'{key} "{one}" is no IP address')
        return value

    def objects(self, key: str) -> list[JsonObject]:
        """Return a list of objects that is not empty; other values are left out and named."""
        value = self.content.get(key)
        if not isinstance(value, list) or not value:
            missing = "is missing" if value is None else "must be a list of objects that is not empty"
            self.wrong(key, f"{key} {missing}")
            return []
        for position, item in enumerate(value):
            if not isinstance(item, dict):
                self.wrong(key, f"{key}[{position}] must be an object, not {json.dumps(item)[:40]}")
        return [item for item in value if isinstance(item, dict)]

    def only(self, known: tuple[str, ...]) -> None:
        for key in self.content:
            if key not in known:
                self.wrong(key, f"unknown key {key}: HCCL does not read it. {perhaps(key, known)}".rstrip())


def is_whole(text: str) -> bool:
    """Return whether HCCL reads the text as a number of 32 bits. Only digits are accepted here. Source: SalStrToULong of sal.cc."""
    return text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) < 2**32


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def parse_table(content: JsonObject) -> tuple[RankTable | None, list[Problem]]:
    """Return the table, and the problems of its fields. The table is None where they do not form one."""
    top = CheckedObject(content, "")
    status = content.get("status")
    if status == "initializing":
        # The scheduler writes this first, without anything else that could be checked.
        top.wrong("status", "status is initializing: the cluster's scheduler has not filled the table in yet")
        return None, top.problems
    top.only(_TABLE)
    if top.text("status", needed=True) not in (None, "completed"):
        top.wrong(
            "status", f"status {json.dumps(status)} must be completed: HCCL waits 30 minutes for it, and gives up"
        )
    version = top.text("version", needed=True)
    if version is not None and version not in VERSIONS:
        top.wrong("version", f"version {version} is none that petrun knows: {' or '.join(VERSIONS)}")
    servers = [_server(item, position, top.problems) for position, item in enumerate(top.objects("server_list"))]
    count = top.whole("server_count", needed=False)
    listed = content.get("server_list")
    if count is not None and isinstance(listed, list) and count != len(listed):
        top.wrong("server_count", f"server_count is {count}, and server_list has {len(listed)}")
    pods: list[SuperPod] = []
    if "super_pod_list" in content:
        # HCCL does not read it in version 1.0, whatever it holds.
        inside = top if version != "1.0" else CheckedObject(content, "")
        pods = [
            parse_super_pod(item, position, inside.problems)
            for position, item in enumerate(inside.objects("super_pod_list"))
        ]
    whole = [server for server in servers if server is not None]
    if version not in VERSIONS or not whole or len(whole) < len(servers):
        return None, top.problems
    known: Version = "1.0" if version == "1.0" else "1.2"
    return RankTable(known, tuple(whole), tuple(pods)), top.problems


def _server(content: JsonObject, position: int, problems: list[Problem]) -> Server | None:
    """Parse a server. Returns None where its id or one of its cards is missing: the rules need both."""
    name = content.get("server_id")
    fields = CheckedObject(
        content, f"server {name}" if isinstance(name, str) and name else f"server_list[{position}]", problems
    )
    fields.only(_SERVER)
    identity = fields.text("server_id", needed=True)
    addresses = {key: fields.addresses(key) for key in SERVER_ADDRESSES}
    # "reserve" stands for none in tables that hccl_tools writes.
    others = {key: fields.text(key) for key in ("host_nic_ip", "hardware_type")}
    items = fields.objects("device")
    cards = [_card(item, index, fields.where, problems) for index, item in enumerate(items)]
    whole = tuple(card for card in cards if card is not None)
    if identity is None or not whole or len(whole) < len(cards):
        return None
    return Server(id=identity, cards=whole, **addresses, **others)


def _card(content: JsonObject, position: int, server: str, problems: list[Problem]) -> Card | None:
    device = content.get("device_id")
    shown = f"device {device}" if isinstance(device, str | int) and device != "" else f"device[{position}]"
    fields = CheckedObject(content, f"{server}, {shown}", problems)
    fields.only(_CARD)
    number, rank = fields.whole("device_id"), fields.whole("rank_id")
    addresses = {key: fields.addresses(key, several=True) for key in CARD_ADDRESSES}
    ports = {key: fields.port(key) for key in CARD_PORTS}
    # A number in version 1.2, and not read in 1.0: see the rules.
    super_device = content.get("super_device_id")
    if "super_device_id" in content and not isinstance(super_device, str):
        fields.text("super_device_id")
    if number is None or rank is None:
        return None
    return Card(
        rank=rank,
        device=number,
        super_device_id=None if super_device is None else str(super_device),
        **addresses,
        **ports,
    )


def parse_super_pod(content: JsonObject, position: int, problems: list[Problem]) -> SuperPod:
    name = content.get("super_pod_id")
    fields = CheckedObject(
        content, f"super pod {name}" if isinstance(name, str) and name else f"super_pod_list[{position}]", problems
    )
    fields.only(_POD)
    identity = fields.text("super_pod_id", needed=True)
    ids = []
    for item in fields.objects("server_list"):
        inner = CheckedObject(item, fields.where, problems)
        inner.only(("server_id",))
        ids.append(inner.text("server_id", needed=True))
    return SuperPod(identity or f"[{position}]", tuple(one for one in ids if one is not None))
