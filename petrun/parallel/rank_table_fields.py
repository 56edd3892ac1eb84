"""The fields of a rank table, one by one: JSON -> RankTable, and back. What is wrong is collected, never raised at the first."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petrun.errors import SetupError, perhaps
from petrun.parallel.rank_table import VERSIONS, Card, Problem, RankTable, Server, SuperPod, Version

_TABLE = ("version", "status", "server_count", "server_list", "super_pod_list")
_ADDRESSES = ("host_ip", "pod_ip", "container_ip")
_SERVER = ("server_id", "device", *_ADDRESSES, "host_nic_ip", "hardware_type")
_CARD_TEXTS = ("super_device_id", "device_port", "backup_device_port", "host_port")
_CARD_ADDRESSES = ("device_ip", "backup_device_ip")
_CARD = ("device_id", "rank_id", *_CARD_ADDRESSES, *_CARD_TEXTS)
_POD = ("super_pod_id", "server_list")
_LARGEST_BYTES = 64 << 20


def load_json(path: Path) -> dict[str, Any]:
    """The file as a JSON object. Raises SetupError naming the line."""
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


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} stands twice in one object")
        found[key] = value
    return found


@dataclass
class _Fields:
    """One JSON object of the table, and the problems that its fields have."""

    content: Mapping[str, Any]
    where: str
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, text: str, fatal: bool = True) -> None:
        self.problems.append(Problem(self.where, text, fatal))

    def text(self, key: str, *, needed: bool = False) -> str | None:
        value = self.content.get(key)
        if value is None:
            if needed:
                self.wrong(f"{key} is missing")
            return None
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.wrong(f'{key} {value} is a number; HCCL and MindSpore want a string: "{value}"')
            return str(value)
        if not isinstance(value, str) or not value:
            self.wrong(f"{key} {json.dumps(value)} must be a string that is not empty")
            return None
        return value

    def whole(self, key: str) -> int | None:
        value = self.text(key, needed=True)
        if value is None:
            return None
        if not (value.isascii() and value.isdecimal() and len(value) < 10):
            self.wrong(f'{key} "{value}" must be a whole number from 0, as a string')
            return None
        return int(value)

    def address(self, key: str) -> str | None:
        value = self.text(key)
        if value is not None and not is_address(value):
            self.wrong(f'{key} "{value}" is no IP address')
        return value

    def objects(self, key: str) -> list[Mapping[str, Any]]:
        """A list of objects that is not empty; what is no object is left out and named."""
        value = self.content.get(key)
        if not isinstance(value, list) or not value:
            missing = "is missing" if value is None else "must be a list of objects that is not empty"
            self.wrong(f"{key} {missing}")
            return []
        for position, item in enumerate(value):
            if not isinstance(item, dict):
                self.wrong(f"{key}[{position}] must be an object, not {json.dumps(item)[:40]}")
        return [item for item in value if isinstance(item, dict)]

    def only(self, known: tuple[str, ...]) -> None:
        for key in self.content:
            if key not in known:
                self.wrong(f"unknown key {key}. {perhaps(key, known)}".rstrip(), fatal=False)


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def build(content: Mapping[str, Any]) -> tuple[RankTable | None, list[Problem]]:
    """The table, and what is wrong with its fields. None where they do not make one."""
    top = _Fields(content, "")
    status = content.get("status")
    if status == "initializing":
        # The scheduler writes this first, and nothing else that could be checked.
        top.wrong("status is initializing: the scheduler has not filled the table in yet")
        return None, top.problems
    if "group_list" in content:
        top.wrong("group_list: a table of the format before 1.0, which MindSpore 2.10 does not take")
        return None, top.problems
    top.only(_TABLE)
    if top.text("status", needed=True) not in (None, "completed"):
        top.wrong(f"status {json.dumps(status)} must be completed")
    version = top.text("version", needed=True)
    if version is not None and version not in VERSIONS:
        top.wrong(f"version {version} is none that HCCL reads here: {' or '.join(VERSIONS)}")
    servers = [_server(item, position, top.problems) for position, item in enumerate(top.objects("server_list"))]
    count = top.whole("server_count")
    listed = content.get("server_list")
    if count is not None and isinstance(listed, list) and count != len(listed):
        top.wrong(f"server_count is {count}, and server_list has {len(listed)}")
    pods: list[SuperPod] = []
    if "super_pod_list" in content:
        pods = [_pod(item, position, top.problems) for position, item in enumerate(top.objects("super_pod_list"))]
    whole = [server for server in servers if server is not None]
    if version not in VERSIONS or not whole or len(whole) < len(servers):
        return None, top.problems
    known: Version = "1.0" if version == "1.0" else "1.2"
    return RankTable(known, tuple(whole), tuple(pods)), top.problems


def _server(content: Mapping[str, Any], position: int, problems: list[Problem]) -> Server | None:
    """None where its id or one of its cards is missing: the rules have nothing to hold on to then."""
    name = content.get("server_id")
    fields = _Fields(
        content, f"server {name}" if isinstance(name, str) and name else f"server_list[{position}]", problems
    )
    fields.only(_SERVER)
    identity = fields.text("server_id", needed=True)
    addresses = {key: fields.address(key) for key in _ADDRESSES}
    # "reserve" stands for none in tables that hccl_tools writes.
    others = {key: fields.text(key) for key in ("host_nic_ip", "hardware_type")}
    items = fields.objects("device")
    cards = [_card(item, place, fields.where, problems) for place, item in enumerate(items)]
    whole = tuple(card for card in cards if card is not None)
    if identity is None or not whole or len(whole) < len(cards):
        return None
    return Server(identity, whole, **addresses, **others)


def _card(content: Mapping[str, Any], position: int, server: str, problems: list[Problem]) -> Card | None:
    device = content.get("device_id")
    shown = f"device {device}" if isinstance(device, str | int) and device != "" else f"device[{position}]"
    fields = _Fields(content, f"{server}, {shown}", problems)
    fields.only(_CARD)
    number, rank = fields.whole("device_id"), fields.whole("rank_id")
    addresses = {key: fields.address(key) for key in _CARD_ADDRESSES}
    texts = {key: fields.text(key) for key in _CARD_TEXTS}
    if number is None or rank is None:
        return None
    return Card(rank, number, **addresses, **texts)


def _pod(content: Mapping[str, Any], position: int, problems: list[Problem]) -> SuperPod:
    name = content.get("super_pod_id")
    fields = _Fields(
        content, f"super pod {name}" if isinstance(name, str) and name else f"super_pod_list[{position}]", problems
    )
    fields.only(_POD)
    identity = fields.text("super_pod_id", needed=True)
    ids = []
    for item in fields.objects("server_list"):
        inner = _Fields(item, fields.where, problems)
        inner.only(("server_id",))
        ids.append(inner.text("server_id", needed=True))
    return SuperPod(identity or f"[{position}]", tuple(one for one in ids if one is not None))


def dump(table: RankTable) -> str:
    """The table as HCCL reads it: every scalar a string, nothing that is not known."""

    def some(**values: str | None) -> dict[str, Any]:
        return {key: value for key, value in values.items() if value is not None}

    servers = []
    for server in table.servers:
        cards = [
            {
                "device_id": str(card.device),
                **some(**{key: getattr(card, key) for key in (*_CARD_ADDRESSES, *_CARD_TEXTS)}),
                "rank_id": str(card.rank),
            }
            for card in server.cards
        ]
        extras = {key: getattr(server, key) for key in (*_ADDRESSES, "host_nic_ip", "hardware_type")}
        servers.append({"server_id": server.id, **some(**extras), "device": cards})
    tree: dict[str, Any] = {
        "version": table.version,
        "status": "completed",
        "server_count": str(len(table.servers)),
        "server_list": servers,
    }
    if table.super_pods:
        tree["super_pod_list"] = [
            {"super_pod_id": pod.id, "server_list": [{"server_id": one} for one in pod.server_ids]}
            for pod in table.super_pods
        ]
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
