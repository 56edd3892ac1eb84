"""Make rank tables from hosts and their cards, and convert them between versions. No value is invented: an error names missing ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from petrun.cluster.rank_table.parse import is_address
from petrun.cluster.rank_table.read import listed
from petrun.cluster.rank_table.rules import check
from petrun.cluster.rank_table.table import Card, Problem, RankTable, Server, SuperPod, Version
from petrun.errors import ConfigError, SetupError

SAME = "server_id"
"""Means that the addresses are the servers' ids."""


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Values that the options give for a table; lists run over the servers, and over the cards of each."""

    pod_ips: Sequence[str] = ()
    super_pods: Sequence[SuperPod] = ()
    super_device_ids: Sequence[str] = ()
    device_ips: Sequence[str] = ()


def make(hosts: Sequence[str], devices: Sequence[int], version: Version, extra: TableOptions) -> RankTable:
    """Make a table with ranks in the order of hosts and devices. Raises ConfigError naming the flag that is missing or wrong."""
    if not hosts or not devices:
        raise ConfigError("a rank table has at least one host and one card", hint="Give --hosts and --cards-per-host.")
    servers = [
        Server(
            id=host,
            cards=tuple(Card(rank=row * len(devices) + index, device=device) for index, device in enumerate(devices)),
        )
        for row, host in enumerate(hosts)
    ]
    table = RankTable(version, tuple(servers))
    if not extra.device_ips and len(hosts) > 1 and version == "1.0":
        raise ConfigError(
            "several hosts reach one another by the addresses of their cards",
            hint="Give --device-ips, or --hccn HOST=FILE for every host (its /etc/hccn.conf).",
        )
    return _checked(_with(table, extra), "--hosts", super_pods=version == "1.2")


def convert(table: RankTable, version: Version, extra: TableOptions) -> tuple[RankTable, tuple[str, ...]]:
    """Return the table in another version, and its keys that are left out. Raises ConfigError naming the flag for a value that it lacks."""
    lost: list[str] = []
    if version == "1.0":
        given = [
            flag
            for flag, value in (("--super-pod", extra.super_pods), ("--super-device-ids", extra.super_device_ids))
            if value
        ]
        if given:
            raise ConfigError(f"{', '.join(given)}: version 1.0 has no super pods", hint="Leave it out, or --to 1.2.")
    if version == "1.0" and table.version == "1.2":
        # HCCL reads all other keys in 1.0 as well.
        cards = [card for server in table.servers for card in server.cards]
        lost = ["super_device_id"] if any(card.super_device_id is not None for card in cards) else []
        lost += ["super_pod_list"] if table.super_pods else []
        bare = [
            replace(server, cards=tuple(replace(card, super_device_id=None) for card in server.cards))
            for server in table.servers
        ]
        table = replace(table, servers=tuple(bare), super_pods=())
    result = _with(replace(table, version=version), extra)
    return _checked(result, f"--to {version}", super_pods=version == "1.2" != table.version), tuple(lost)


def _checked(table: RankTable, what: str, *, super_pods: bool) -> RankTable:
    """Raises ConfigError with the problems, and the flags for missing values. `super_pods`: whether the table is made for them."""
    problems = [
        problem
        for problem in check(table)
        if problem.fatal or (super_pods and problem.text.startswith(("is missing", "super_device_id is missing")))
    ]
    if super_pods and not table.super_pods and any(c.super_device_id is None for s in table.servers for c in s.cards):
        problems.append(Problem(where="", text="super_device_id is missing"))
    if problems:
        raise ConfigError(f"{what}: the rank table would be wrong:\n{listed(problems)}", hint=_flags(problems))
    return table


def _flags(problems: Sequence[Problem]) -> str:
    flags = {
        "super_pod_list": "--super-pod ID=HOST,HOST",
        "in no super pod": "--super-pod ID=HOST,HOST",
        "super_device_id is missing": "--super-device-ids (`npu-smi info -t spod-info -i ID -c CHIP` prints them)",
        "device_ip is missing": "--device-ips, or --hccn HOST=FILE",
    }
    needed = dict.fromkeys(flag for words, flag in flags.items() for problem in problems if words in str(problem))
    return f"Give {' and '.join(needed)}." if needed else "Correct the flags; nothing was written."


def _with(table: RankTable, extra: TableOptions) -> RankTable:
    """Add the values that the options give. Raises ConfigError for a list of the wrong length."""
    servers = list(table.servers)
    if extra.pod_ips:
        addresses = [s.id for s in servers] if list(extra.pod_ips) == [SAME] else list(extra.pod_ips)
        _count("--pod-ips", addresses, len(servers), "servers")
        servers = [replace(server, pod_ip=ip) for server, ip in zip(servers, addresses, strict=True)]
    for flag, values in (("--device-ips", extra.device_ips), ("--super-device-ids", extra.super_device_ids)):
        if values:
            _count(flag, values, table.cards, "cards of all servers")
    ips, ids = iter(extra.device_ips), iter(extra.super_device_ids)
    servers = [
        replace(
            server,
            cards=tuple(
                replace(
                    card,
                    device_ip=next(ips, card.device_ip),
                    super_device_id=next(ids, card.super_device_id),
                )
                for card in server.cards
            ),
        )
        for server in servers
    ]
    pod_ips = [server.pod_ip or "" for server in servers] if extra.pod_ips else []
    for flag, given in (("--pod-ips", pod_ips), ("--device-ips", extra.device_ips)):
        wrong = [ip for ip in given if not is_address(ip)]
        if wrong:
            raise ConfigError(f"{flag}: {', '.join(wrong)}: no IP address", hint="Example: 192.168.100.101")
    return replace(table, servers=tuple(servers), super_pods=tuple(extra.super_pods) or table.super_pods)


def _count(flag: str, values: Sequence[str], wanted: int, what: str) -> None:
    if len(values) != wanted:
        raise ConfigError(
            f"{flag}: {len(values)} values for {wanted} {what}", hint="One each, comma-separated, in order."
        )


def read_hccn(path: Path) -> dict[int, str]:
    """Read hccn.conf of a host, `address_0=192.168.100.101` -> {device: address}. Raises SetupError naming the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SetupError(f"--hccn {path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SetupError(f"--hccn {path}: is not UTF-8 text (byte {error.start})") from error
    found: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"\s*address_(\d{1,4})\s*=\s*(.*?)\s*", line)
        if match is None:
            # netmask_0=, netdetect_0=, gateway_0= and comments.
            continue
        device, address = int(match[1]), match[2]
        if not is_address(address):
            raise SetupError(f'--hccn {path}, line {number}: "{address}" is no IP address')
        if device in found:
            raise SetupError(f"--hccn {path}, line {number}: address_{device} stands twice")
        found[device] = address
    if not found:
        raise SetupError(
            f"--hccn {path}: holds no line address_0=IP", hint="The file of a host with cards is /etc/hccn.conf."
        )
    return found


def device_ips(hosts: Sequence[str], devices: Sequence[int], files: Mapping[str, Path]) -> list[str]:
    """Return the addresses of every host's devices, from its hccn.conf. Raises ConfigError for a host or a device without."""
    without = [host for host in hosts if host not in files]
    foreign = [host for host in files if host not in hosts]
    if without or foreign:
        what = f"no file for {', '.join(without)}" if without else f"{', '.join(foreign)} is not among --hosts"
        raise ConfigError(f"--hccn: {what}", hint="Give --hccn HOST=FILE for every host of --hosts.")
    found = []
    for host in hosts:
        addresses = read_hccn(files[host])
        missing = [device for device in devices if device not in addresses]
        if missing:
            raise ConfigError(
                f"--hccn {files[host]}: no address_{missing[0]}, and --cards-per-host or --devices asks for it",
                hint=f"It has {', '.join(f'address_{device}' for device in addresses)}.",
            )
        found += [addresses[device] for device in devices]
    return found
