"""What would keep a job from working, found out before its base is loaded: each host says what it is, and all compare the same table."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petrun.cluster.other_hosts.hosts import Hosts
from petrun.cluster.ports import listen
from petrun.cluster.rank_table.start import TableStart
from petrun.cluster.ranks import Cluster, cores_here
from petrun.config.schema import RunConfig
from petrun.errors import PetrunError, SetupError
from petrun.parallel.context import cards_here
from petrun.tensors.output import existing_parent
from petrun.tensors.sharded.rank_files import PATIENCE_SECONDS
from petrun.training import run_folder
from petrun.training.preflight.host_facts import (
    card_tools,
    disk,
    file_digests,
    flat_settings,
    versions,
    visible_devices,
)
from petrun.training.preflight.shared_folder import probe_name, sees, write_probe

_CLOCK_SECONDS = 5.0
"""By which two hosts' clocks may differ: locks and caches on a shared disk are told stale by time."""
_CONNECT_SECONDS = 5.0
_MOST_NAMED = 5


@dataclass(frozen=True)
class Check:
    """One line."""

    name: str
    good: bool
    text: str


@dataclass(frozen=True)
class Start:
    """What is about to be started on this host."""

    config: RunConfig
    cluster: Cluster | TableStart
    target: str
    resumed: bool = False
    """The run folder holds a run that goes on."""


def check(start: Start, hosts: Hosts | None, say: Callable[[str], None]) -> None:
    """Print a line for each check. Raises SetupError naming those that failed; all hosts come to the same result."""
    table = _table(start, hosts)
    failed = [
        f"{_named(number, fact, len(table))}: {fact['error']}" for number, fact in enumerate(table) if "error" in fact
    ]
    if failed:
        raise SetupError(f"preflight: {'; '.join(failed)}")
    checks = [*_ports(start.cluster, hosts), *_own(table, start.cluster)]
    if hosts is not None:
        checks += [_compared("versions", "versions", table), _compared("settings", "settings", table)]
        checks += [_compared("files", "files", table), _clocks(hosts), _reached(hosts), _shared(start, hosts)]
    for line in checks:
        say(f"{'ok' if line.good else 'FAILED':<8}{line.name:<12}{line.text}")
    if bad := [line for line in checks if not line.good]:
        raise SetupError(
            f"preflight: {len(bad)} of {len(checks)} checks failed: {', '.join(line.name for line in bad)}",
            hint="The lines above say what is wrong. Nothing was started.",
        )


def _table(start: Start, hosts: Hosts | None) -> list[dict[str, Any]]:
    """What each host says of itself, by host rank. An error of one reaches all."""
    try:
        mine = _facts(start)
    except PetrunError as error:
        mine = {"error": f"{error.message} {error.hint}".strip()}
    except OSError as error:
        mine = {"error": f"{error.filename}: {error.strerror}"}
    mine["name"] = socket.gethostname()
    return [mine] if hosts is None else hosts.exchange(mine)


def _facts(start: Start) -> dict[str, Any]:
    config, cluster = start.config, start.cluster
    out = _out(config)
    if not start.resumed:
        run_folder.choose(config.out.dir, config.algo, config.out.format)
    cards = cards_here() if start.target == "ascend" else None
    devices = (
        sorted(cluster.devices.values())
        if isinstance(cluster, TableStart)
        else visible_devices(os.environ, cluster.local)
    )
    return {
        "versions": versions(),
        "settings": {**flat_settings(config), "device": start.target},
        "files": file_digests(config),
        "disk": disk(config, out),
        "cards": f"{len(cluster.ranks)} of {cards} cards"
        if cards is not None
        else f"{len(cluster.ranks)} ranks on {cores_here()} cores",
        "tools": card_tools(devices, several_hosts=cluster.hosts > 1) if start.target == "ascend" else [],
    }


def _out(config: RunConfig) -> Path:
    return Path(config.out.dir).expanduser() if config.out.dir else run_folder.next_free(config.algo)


def _named(number: int, fact: Mapping[str, Any], hosts: int) -> str:
    return f"host {number} ({fact['name']})" if hosts > 1 else fact["name"]


def _ports(cluster: Cluster | TableStart, hosts: Hosts | None) -> list[Check]:
    """What has shown itself by coming this far: check_start and the meeting end the command before."""
    if hosts is not None:
        return [Check("ports", True, f"host 0 listens on {hosts.address} port {hosts.port}, and all hosts came")]
    if isinstance(cluster, Cluster) and cluster.port is not None:
        return [Check("ports", True, f"{cluster.address} port {cluster.port} is free")]
    return []


def _own(table: Sequence[Mapping[str, Any]], cluster: Cluster | TableStart) -> list[Check]:
    """What needs no other host: cards, disk and the cards' tools. A line for each kind."""
    each = [(_named(number, fact, len(table)), fact) for number, fact in enumerate(table)]
    found = [
        Check("cards", True, f"{cluster.cards} ranks; " + "; ".join(f"{name}: {fact['cards']}" for name, fact in each))
    ]
    full = [f"{name}: {_size(fact['disk'])}" for name, fact in each]
    found.append(
        Check("disk", all(fact["disk"]["free"] >= fact["disk"]["needed"] for _, fact in each), "; ".join(full))
    )
    for tool in dict.fromkeys(tool for _, fact in each for tool, _, _ in fact["tools"]):
        said = [(name, good, text) for name, fact in each for own, good, text in fact["tools"] if own == tool]
        found.append(
            Check(tool, all(good for _, good, _ in said), "; ".join(f"{name}: {text}" for name, _, text in said))
        )
    return found


def _size(disk: Mapping[str, Any]) -> str:
    free, needed = (disk[key] / 1e9 for key in ("free", "needed"))
    return f"{free:.1f} GB free under {disk['place']}, {needed:.1f} GB needed"


def _compared(name: str, key: str, table: Sequence[Mapping[str, Any]]) -> Check:
    """What has to be the same on all hosts, by keys: those in which a host differs from host 0 are named with both values."""
    first = table[0][key]
    differing = []
    for number, fact in enumerate(table[1:], 1):
        own = fact[key]
        for entry in sorted({*first, *own}):
            if first.get(entry) != own.get(entry):
                values = [_value(name, facts.get(entry)) for facts in (first, own)]
                differing.append(
                    f"{entry}: {values[0]} on {_named(0, table[0], 2)}, {values[1]} on {_named(number, fact, 2)}"
                )
    if differing:
        more = f"; and {len(differing) - _MOST_NAMED} more" if len(differing) > _MOST_NAMED else ""
        return Check(name, False, "; ".join(differing[:_MOST_NAMED]) + more)
    if name == "versions":
        return Check(name, True, ", ".join(f"{what} {version}" for what, version in first.items()))
    return Check(name, True, f"{len(first)}, the same on {len(table)} hosts" if first else "none is named")


def _value(name: str, value: object) -> str:
    if name != "files":
        return "not there" if value is None else str(value)
    return "not there" if not value else f"content {str(value)[:8]}"


def _clocks(hosts: Hosts) -> Check:
    """Every host reads its clock when host 0's answer to the exchange before has come, some milliseconds apart."""
    read = hosts.exchange(time.time())
    ahead = [value - read[0] for value in read]
    widest = max(ahead) - min(ahead)
    text = f"the hosts' clocks differ by {widest:.1f} s"
    if widest <= _CLOCK_SECONDS:
        return Check("clock", True, text)
    off = ", ".join(
        f"host {number} by {seconds:+.0f} s"
        for number, seconds in enumerate(ahead)
        if abs(seconds) > _CLOCK_SECONDS / 2
    )
    return Check("clock", False, f"{text}, from host 0: {off}; set them by NTP")


def _reached(hosts: Hosts) -> Check:
    """Every host opens a port at the address by which it is known, and connects to those of all the others, as their ranks will."""
    own = hosts.cluster.host_rank
    address = hosts.address if own == 0 else str(hosts.connections[0].socket.getsockname()[0])
    with listen(address, 0, hosts.cluster.hosts) as listener:
        places = hosts.exchange([address, listener.getsockname()[1]])
        missed = [number for number, place in enumerate(places) if number != own and not _connects(*place)]
        table = hosts.exchange(missed)
    unreached = [
        f"host {here} does not reach host {there} ({places[there][0]})"
        for here, row in enumerate(table)
        for there in row
    ]
    if unreached:
        return Check("addresses", False, "; ".join(unreached) + ": a firewall, or no route")
    return Check(
        "addresses", True, "each reaches each: " + ", ".join(f"host {n} {place[0]}" for n, place in enumerate(places))
    )


def _connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _shared(start: Start, hosts: Hosts) -> Check:
    """Host 0 writes a file above or in --out, and the others look for it as far above their own --out."""
    out = _out(start.config).absolute()
    place: Path | None = None
    told: dict[str, Any] | None = None
    if hosts.cluster.host_rank == 0:
        above = existing_parent(out)
        place = above / probe_name(secrets.token_hex(8))
        told = {"file": place.name, "levels": len(out.relative_to(above).parts)}
        with suppress(PetrunError):
            write_probe(place)
    try:
        asked = hosts.exchange(told)[0]
        mine = (out, *out.parents)
        above = mine[min(asked["levels"], len(mine) - 1)]
        seen = hosts.exchange(sees(above / asked["file"], PATIENCE_SECONDS if hosts.cluster.host_rank else 0.0))
    finally:
        if place is not None:
            with suppress(OSError):
                place.unlink()
    # Nobody looks into the folder before the file is gone.
    hosts.exchange(None)
    if all(seen):
        return Check("--out", True, f"{out}: all hosts see what host 0 writes there")
    blind = ", ".join(f"host {number}" for number, sees_it in enumerate(seen) if not sees_it)
    return Check(
        "--out",
        False,
        f"{out}: {blind} does not see what host 0 writes there; it must lie on a disk that the hosts share",
    )
