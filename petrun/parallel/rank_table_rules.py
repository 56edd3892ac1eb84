"""What the fields of a rank table must be together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from petrun.parallel.rank_table import Card, Problem, RankTable, Server


def check(table: RankTable) -> list[Problem]:
    """Everything that is wrong with a table whose fields are right; what only msrun minds is not fatal."""
    found = [
        *_servers(table),
        *_ranks(table),
        *_devices(table),
        *_addresses(table),
        *_super_pods(table),
        *check_msrun(table, fatal=False),
    ]
    return found


def _every(table: RankTable) -> Iterator[tuple[Server, Card]]:
    for server in table.servers:
        for card in server.cards:
            yield server, card


def _at(server: Server, card: Card) -> str:
    return f"server {server.id}, device {card.device}"


def _servers(table: RankTable) -> Iterator[Problem]:
    for name, times in Counter(server.id for server in table.servers).items():
        if times > 1:
            yield Problem(f"server {name}", f"stands {times} times in server_list")
    counts = {server.id: len(server.cards) for server in table.servers}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name} has {count}" for name, count in counts.items())
        yield Problem("server_list", f"every server must have as many devices: {shown}")


def _ranks(table: RankTable) -> Iterator[Problem]:
    yield from _twice(table, "rank_id", lambda card: str(card.rank))
    ranks = {card.rank for _, card in _every(table)}
    gaps = sorted(set(range(table.cards)) - ranks)
    if gaps:
        over = [f"{_at(server, card)} has {card.rank}" for server, card in _every(table) if card.rank >= table.cards]
        where = f"; {', '.join(over)}" if over else ""
        shown = ", ".join(map(str, gaps[:20])) + (", ..." if len(gaps) > 20 else "")
        yield Problem(
            "rank_id",
            f"{table.cards} devices have ranks 0 to {table.cards - 1}, and {shown} {_is(gaps)} missing{where}",
        )
    for server in table.servers:
        own = sorted(card.rank for card in server.cards)
        if own != list(range(own[0], own[0] + len(own))) and len(set(own)) == len(own):
            yield Problem(
                f"server {server.id}", f"its ranks do not follow one another: {', '.join(map(str, own))}", fatal=False
            )


def _is(many: list[int]) -> str:
    return "is" if len(many) == 1 else "are"


def _twice(
    table: RankTable, key: str, value: Callable[[Card], str | None], fatal: bool = True, scope: str = ""
) -> Iterator[Problem]:
    """Values that must differ between all devices, and do not."""
    places: dict[str, list[str]] = {}
    for server, card in _every(table):
        one = value(card)
        if one is not None:
            places.setdefault(one, []).append(_at(server, card))
    for one, where in places.items():
        if len(where) > 1:
            yield Problem(where[1], f"{key} {one} is that of {where[0]} too{scope}", fatal)
            yield from (Problem(more, f"{key} {one} is that of {where[0]} too{scope}", fatal) for more in where[2:])


def _devices(table: RankTable) -> Iterator[Problem]:
    for server in table.servers:
        for device, times in Counter(card.device for card in server.cards).items():
            if times > 1:
                yield Problem(f"server {server.id}, device {device}", f"device_id stands {times} times in this server")


def _addresses(table: RankTable) -> Iterator[Problem]:
    yield from _twice(table, "device_ip", lambda card: card.device_ip)
    # Within a super pod the cards find one another by super_device_id; between servers otherwise by device_ip alone.
    needed = len(table.servers) > 1 if table.version == "1.0" else len(table.super_pods) > 1
    for server, card in _every(table):
        if card.device_ip is None:
            why = "the servers reach one another by it" if needed else "HCCL has no network card to use"
            yield Problem(_at(server, card), f"device_ip is missing: {why}", fatal=needed)
    for key in ("host_ip", "pod_ip"):
        for address, times in Counter(getattr(server, key) for server in table.servers).items():
            if address is not None and times > 1:
                names = ", ".join(server.id for server in table.servers if getattr(server, key) == address)
                yield Problem(f"servers {names}", f"{key} {address} is the same")


def _super_pods(table: RankTable) -> Iterator[Problem]:
    if table.version == "1.0":
        if table.super_pods:
            yield Problem("super_pod_list", "belongs to version 1.2, and version is 1.0", fatal=False)
        return
    if not table.super_pods:
        yield Problem("super_pod_list", "is missing: version 1.2 needs it")
    members = Counter(name for pod in table.super_pods for name in pod.server_ids)
    known = {server.id for server in table.servers}
    for identity, times in Counter(pod.id for pod in table.super_pods).items():
        if times > 1:
            yield Problem(f"super pod {identity}", f"stands {times} times in super_pod_list")
    for pod in table.super_pods:
        for name in pod.server_ids:
            if name not in known:
                yield Problem(f"super pod {pod.id}", f"server {name} is not in server_list")
    for name, times in members.items():
        if times > 1:
            yield Problem(f"server {name}", f"stands {times} times in super_pod_list: a server is in one super pod")
    for server in table.servers if table.super_pods else ():
        if server.id not in members:
            yield Problem(f"server {server.id}", "is in no super pod of super_pod_list")
    for server, card in _every(table):
        if card.super_device_id is None:
            yield Problem(_at(server, card), "super_device_id is missing: version 1.2 needs it")
    for pod in table.super_pods:
        inside = tuple(server for server in table.servers if server.id in pod.server_ids)
        yield from _twice(
            RankTable(table.version, inside),
            "super_device_id",
            lambda card: card.super_device_id,
            scope=f", in super pod {pod.id}",
        )


def check_msrun(table: RankTable, *, fatal: bool) -> Iterator[Problem]:
    """What `msrun --rank_table_file` needs. It takes the ranks of the server with the host's pod_ip, by their position in `device`;
    where anything is missing it warns in scheduler.log and leaves the ranks as they were.
    """
    for server in table.servers:
        if server.pod_ip is None:
            yield Problem(
                f"server {server.id}",
                "pod_ip is missing: msrun --rank_table_file finds a host by it, and without it leaves the ranks as they were",
                fatal,
            )
        devices = [card.device for card in server.cards]
        if devices != sorted(devices):
            yield Problem(
                f"server {server.id}",
                f"devices stand in the order {', '.join(map(str, devices))}: msrun goes by position and ignores device_id",
                fatal=False,
            )
