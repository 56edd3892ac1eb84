"""Check the hosts of a job before its base is loaded: each host sends its facts to all, and all compare the same table."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from petrun.cluster.card_tools import card_tools, visible_devices
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
    DiskFacts,
    HostFacts,
    disk,
    empty_facts,
    file_digests,
    flat_settings,
    versions,
)
from petrun.training.preflight.shared_folder import probe_name, sees, write_probe
from petrun.typing import JsonObject

_CLOCK_SECONDS = 5.0
"""Largest difference of two hosts' clocks: whether a lock or a cache on a shared disk is stale is decided by time."""
_CONNECT_SECONDS = 5.0
_MOST_NAMED = 5


@dataclass(frozen=True)
class Check:
    """Holds the result of one check, a line of the output."""

    name: str
    good: bool
    text: str


@dataclass(frozen=True)
class JobStart:
    """Holds what is about to be started on this host."""

    config: RunConfig
    cluster: Cluster | TableStart
    target: str
    resumed: bool = False
    """Whether the run folder holds a run that resumes."""


def check_hosts(start: JobStart, hosts: Hosts | None, show: Callable[[str], None]) -> None:
    """Give `show` a line for each check. Raises SetupError naming those that failed; the result is the same on all hosts."""
    table = _table(start, hosts)
    failed = [
        f"{_named(number, fact, len(table))}: {fact['error']}" for number, fact in enumerate(table) if fact["error"]
    ]
    if failed:
        raise SetupError(f"preflight: {'; '.join(failed)}")
    checks = [*_ports(start.cluster, hosts), *_host_checks(table, start.cluster)]
    if hosts is not None:
        checks += [
            _versions(table),
            _settings(table),
            _files(table),
            _clocks(hosts),
            _reached(hosts),
            _shared(start, hosts),
        ]
    for line in checks:
        show(f"{'ok' if line.good else 'FAILED':<8}{line.name:<12}{line.text}")
    if bad := [line for line in checks if not line.good]:
        raise SetupError(
            f"preflight: {len(bad)} of {len(checks)} checks failed: {', '.join(line.name for line in bad)}",
            hint="The lines above say what is wrong. Nothing was started.",
        )


def _table(start: JobStart, hosts: Hosts | None) -> list[HostFacts]:
    """Exchange the facts of all hosts, by host rank. An error of one reaches all."""
    try:
        mine = _facts(start)
    except PetrunError as error:
        mine = empty_facts(f"{error.message} {error.hint}".strip())
    except OSError as error:
        mine = empty_facts(f"{error.filename}: {error.strerror}")
    return [mine] if hosts is None else hosts.exchange(mine)


def _facts(start: JobStart) -> HostFacts:
    """Collect the facts of this host. Raises PetrunError and OSError."""
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
        **empty_facts(),
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


def _named(number: int, fact: HostFacts, hosts: int) -> str:
    return f"host {number} ({fact['name']})" if hosts > 1 else fact["name"]


def _ports(cluster: Cluster | TableStart, hosts: Hosts | None) -> list[Check]:
    """Return the check that has already passed: without free ports check_start or connecting the hosts ends the command."""
    if hosts is not None:
        return [Check("ports", True, f"host 0 listens on {hosts.address} port {hosts.port}, and all hosts came")]
    if isinstance(cluster, Cluster) and cluster.port is not None:
        return [Check("ports", True, f"{cluster.address} port {cluster.port} is free")]
    return []


def _host_checks(table: Sequence[HostFacts], cluster: Cluster | TableStart) -> list[Check]:
    """Check cards, disk and the cards' tools, which needs no other host. Returns a line for each kind."""
    each = [(_named(number, fact, len(table)), fact) for number, fact in enumerate(table)]
    found = [
        Check("cards", True, f"{cluster.cards} ranks; " + "; ".join(f"{name}: {fact['cards']}" for name, fact in each))
    ]
    full = [f"{name}: {_size(fact['disk'])}" for name, fact in each]
    found.append(
        Check("disk", all(fact["disk"]["free"] >= fact["disk"]["needed"] for _, fact in each), "; ".join(full))
    )
    for tool in dict.fromkeys(tool for _, fact in each for tool, _, _ in fact["tools"]):
        results = [(name, good, text) for name, fact in each for own, good, text in fact["tools"] if own == tool]
        found.append(
            Check(tool, all(good for _, good, _ in results), "; ".join(f"{name}: {text}" for name, _, text in results))
        )
    return found


def _size(disk: DiskFacts) -> str:
    return f"{disk['free'] / 1e9:.1f} GB free under {disk['place']}, {disk['needed'] / 1e9:.1f} GB needed"


def _versions(table: Sequence[HostFacts]) -> Check:
    first = table[0]["versions"]
    differing = _differences(table, [fact["versions"] for fact in table], _text)
    return _differing("versions", differing) or Check(
        "versions", True, ", ".join(f"{name} {version}" for name, version in first.items())
    )


def _settings(table: Sequence[HostFacts]) -> Check:
    differing = _differences(table, [fact["settings"] for fact in table], _text)
    return _differing("settings", differing) or _all_equal("settings", len(table[0]["settings"]), len(table))


def _files(table: Sequence[HostFacts]) -> Check:
    differing = _differences(table, [fact["files"] for fact in table], _content)
    return _differing("files", differing) or _all_equal("files", len(table[0]["files"]), len(table))


def _differences(
    table: Sequence[HostFacts], values: Sequence[Mapping[str, object]], show: Callable[[object], str]
) -> list[str]:
    """Return the keys in which a host differs from host 0, with both values."""
    first, found = values[0], []
    for number, own in enumerate(values[1:], 1):
        for key in sorted({*first, *own}):
            if first.get(key) != own.get(key):
                here = f"{show(first.get(key))} on {_named(0, table[0], 2)}"
                found.append(f"{key}: {here}, {show(own.get(key))} on {_named(number, table[number], 2)}")
    return found


def _differing(name: str, differing: Sequence[str]) -> Check | None:
    """Return the failed check of these differences; None where there are none."""
    more = f"; and {len(differing) - _MOST_NAMED} more" if len(differing) > _MOST_NAMED else ""
    return Check(name, False, "; ".join(differing[:_MOST_NAMED]) + more) if differing else None


def _all_equal(name: str, count: int, hosts: int) -> Check:
    return Check(name, True, f"{count}, the same on {hosts} hosts" if count else "none is named")


def _text(value: object) -> str:
    return "not there" if value is None else str(value)


def _content(digest: object) -> str:
    return f"content {str(digest)[:8]}" if digest else "not there"


def _clocks(hosts: Hosts) -> Check:
    """Compare the clocks. Every host reads its own when the exchange before has ended, some milliseconds apart."""
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
    """Open a port at the address by which this host is known, and connect to the ports of all other hosts, as their ranks will."""
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


def _shared(start: JobStart, hosts: Hosts) -> Check:
    """Check that --out is shared: host 0 writes a file in it or above it, which the others look for at the same relative path."""
    out = _out(start.config).absolute()
    place: Path | None = None
    wanted: JsonObject | None = None
    if hosts.cluster.host_rank == 0:
        above = existing_parent(out)
        place = above / probe_name(secrets.token_hex(8))
        wanted = {"file": place.name, "levels": len(out.relative_to(above).parts)}
        with suppress(PetrunError):
            write_probe(place)
    try:
        sought = hosts.exchange(wanted)[0]
        mine = (out, *out.parents)
        above = mine[min(sought["levels"], len(mine) - 1)]
        seen = hosts.exchange(sees(above / sought["file"], PATIENCE_SECONDS if hosts.cluster.host_rank else 0.0))
    finally:
        if place is not None:
            with suppress(OSError):
                place.unlink()
    # No host reads the folder before the file is removed.
    hosts.exchange(None)
    if all(seen):
        return Check("--out", True, f"{out}: all hosts see what host 0 writes there")
    unseen = ", ".join(f"host {number}" for number, sees_it in enumerate(seen) if not sees_it)
    return Check(
        "--out",
        False,
        f"{out}: {unseen} does not see what host 0 writes there; it must lie on a disk that the hosts share",
    )
