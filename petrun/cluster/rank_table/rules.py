"""Check the fields of a rank table against each other, for each product of cards.

HCCL checks each of these rules when it reads the table; the Problem names the function (see table.py). A problem is not fatal where HCCL
accepts the table and only another start-up path refuses it.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator

from petrun.cluster.rank_table.parse import is_address, is_whole
from petrun.cluster.rank_table.table import Card, Problem, Product, RankTable, Server

_LONGEST_SERVER_ID = 64
"""Bytes: SERVERID_MAX_LENGTH of topoinfo_ranktableParser_pub.h."""
_DEVICES: dict[Product, int] = {"a1": 8, "a2": 16, "a3": 16}
"""Devices of a server: HCCL_AISERVER_DEVICE_NUM, and GetMaxDevNum of device_capacity.cc."""
_NO_SUPER_DEVICE = 2**32 - 1


def check(table: RankTable, product: Product | None = None, *, for_msrun: bool = False) -> list[Problem]:
    """Return all problems of a table whose fields are correct. `product`: the cards; None: those of the table's version, and keys that they
    do not read are checked as well. `for_msrun`: a missing key that msrun --rank_table_file needs is an error.
    """
    cards = product or table.product
    found = [
        *_servers(table, cards, known=product is not None),
        *_ranks(table),
        *_devices(table, cards),
        *_addresses(table, cards),
        *_families(table),
        *_super_pods(table),
    ]
    if product in (None, "a3"):
        found += [*_backups(table)]
    # A table with a pod_ip was made for msrun.
    if for_msrun or any(server.pod_ip is not None for server in table.servers):
        found += [*_msrun(table, fatal=for_msrun)]
    return found


def _every(table: RankTable) -> Iterator[tuple[Server, Card]]:
    for server in table.servers:
        for card in server.cards:
            yield server, card


def _at(server: Server, card: Card) -> str:
    return f"server {server.id}, device {card.device}"


def _servers(table: RankTable, product: Product, *, known: bool) -> Iterator[Problem]:
    for name, times in Counter(server.id for server in table.servers).items():
        if times > 1:
            yield Problem(
                where=f"server {name}", text=f"stands {times} times in server_list", source="HCCL GetSingleServer"
            )
        if len(name.encode()) > _LONGEST_SERVER_ID:
            yield Problem(
                where=f"server {name}",
                text=f"server_id is {len(name.encode())} bytes long, {_LONGEST_SERVER_ID} is the most",
                source="HCCL GetSingleServer",
            )
    counts = {server.id: len(server.cards) for server in table.servers}
    # Of the products of version 1.0, A2 supports them.
    if len(set(counts.values())) > 1 and (product == "a1" or (table.version == "1.0" and not known)):
        shown = ", ".join(f"{name} has {count}" for name, count in counts.items())
        yield Problem(
            where="server_list",
            text=f"Atlas A1 wants as many devices in every server: {shown}",
            fatal=product == "a1",
            source="HCCL CheckDeviceNumValid",
        )


def _ranks(table: RankTable) -> Iterator[Problem]:
    yield from _twice(table, "rank_id", lambda card: [str(card.rank)], "HCCL CheckRankListInfo")
    ranks = {card.rank for _, card in _every(table)}
    gaps = sorted(set(range(table.cards)) - ranks)
    if gaps:
        over = [f"{_at(server, card)} has {card.rank}" for server, card in _every(table) if card.rank >= table.cards]
        where = f"; {', '.join(over)}" if over else ""
        shown = ", ".join(map(str, gaps[:20])) + (", ..." if len(gaps) > 20 else "")
        yield Problem(
            where="rank_id",
            text=f"{table.cards} devices have ranks 0 to {table.cards - 1}, and {shown} {_is(gaps)} missing{where}",
            source="HCCL CheckRankListInfo",
        )
    for server in table.servers:
        own = sorted(card.rank for card in server.cards)
        if not gaps and own != list(range(own[0], own[0] + len(own))) and len(set(own)) == len(own):
            yield Problem(
                where=f"server {server.id}",
                text=f"its ranks {', '.join(map(str, own))} do not follow one another: HCCL's rings and meshes take it that they do",
                source="HCCL TopoInfoExtractor::SetRankInfo",
            )


def _is(many: list[int]) -> str:
    return "is" if len(many) == 1 else "are"


def _twice(
    table: RankTable, key: str, values: Callable[[Card], list[str]], source: str, scope: str = ""
) -> Iterator[Problem]:
    """Yield a problem for each value that two devices share and must not."""
    addresses_at: dict[str, list[str]] = {}
    for server, card in _every(table):
        for one in values(card):
            addresses_at.setdefault(one, []).append(_at(server, card))
    for one, where in addresses_at.items():
        for more in where[1:]:
            yield Problem(where=more, text=f"{key} {one} is that of {where[0]} too{scope}", source=source)


def _spelt(address: str) -> str:
    """Return an address in its canonical spelling; other text unchanged."""
    return str(ipaddress.ip_address(address)) if is_address(address) else address


def _devices(table: RankTable, product: Product) -> Iterator[Problem]:
    for server in table.servers:
        for device, times in Counter(card.device for card in server.cards).items():
            if times > 1:
                yield Problem(
                    where=f"server {server.id}, device {device}",
                    text=f"device_id stands {times} times in this server",
                    source="HCCL CheckDeviceId",
                )
            if device >= _DEVICES[product]:
                yield Problem(
                    where=f"server {server.id}, device {device}",
                    text=f"device_id {device}: a server of Atlas {product.upper()} has devices 0 to {_DEVICES[product] - 1}",
                    source="HCCL GetSingleDevice",
                )


def _addresses(table: RankTable, product: Product) -> Iterator[Problem]:
    yield from _twice(table, "device_ip", lambda card: [*map(_spelt, card.device_ips)], "HCCL CheckUniqueAndInsertPool")
    for server, card in _every(table):
        if card.device_ip is None and len(table.servers) > 1 and (why := _needs_address(table, product, server)):
            source = "HCCL's user guide, rank table" if product == "a3" else "HCCL GetSingleDeviceIp"
            yield Problem(where=_at(server, card), text=f"device_ip is missing: {why}", source=source)
    counts = {len(card.device_ips) or 1 for _, card in _every(table)}
    if len(counts) > 1:
        yield Problem(
            where="device_ip",
            text=f"every device must have as many addresses: some have {' and some '.join(map(str, sorted(counts)))}",
            source="HCCL GetDeviceList",
        )
    yield from _same_address(table, "host_ip", "petrun without --host-rank cannot tell them apart", False, "")


def _same_address(table: RankTable, key: str, why: str, fatal: bool, source: str) -> Iterator[Problem]:
    for address, times in Counter(getattr(server, key) for server in table.servers).items():
        if address is not None and times > 1:
            names = ", ".join(server.id for server in table.servers if getattr(server, key) == address)
            yield Problem(
                where=f"servers {names}", text=f"{key} {address} is the same: {why}", fatal=fatal, source=source
            )


def _needs_address(table: RankTable, product: Product, server: Server) -> str:
    """Return why a card of this server needs a device_ip where there are several servers; "": it does not."""
    if product == "a3":
        # In one super pod the cards find one another by super_device_id.
        return "the super pods reach one another by it" if len(table.super_pods) > 1 else ""
    if product == "a1" and server.host_ip is not None:
        return ""
    return f"the servers of Atlas {product.upper()} reach one another by it"


def _families(table: RankTable) -> Iterator[Problem]:
    """Check that addresses are all IPv4 or all IPv6: HCCL checks it where there are several servers."""
    if len(table.servers) < 2:
        return
    hosts = [(f"server {server.id}", server.host_ip) for server in table.servers if server.host_ip is not None]
    cards = [(_at(server, card), one) for server, card in _every(table) for one in card.device_ips]
    for key, addresses_at in (("host_ip", hosts), ("device_ip", cards)):
        versions = [(where, ipaddress.ip_address(one).version) for where, one in addresses_at if is_address(one)]
        other = next((pair for pair in versions if pair[1] != versions[0][1]), None)
        if other is not None:
            yield Problem(
                where=other[0],
                text=f"{key} is IPv{other[1]}, and that of {versions[0][0]} IPv{versions[0][1]}: all must be one kind",
                source="HCCL CheckRankIpFamily",
            )


def _backups(table: RankTable) -> Iterator[Problem]:
    """Check the addresses by which A3 retries a collective between super pods. The backup of a card is the address of another card."""
    source = "HCCL VerifyBackupDeviceIpAndPort"
    yield from _twice(
        table,
        "backup_device_ip",
        lambda card: [*map(_spelt, card.backup_device_ips)],
        "HCCL CheckUniqueAndInsertPool",
    )
    main_ports = {_spelt(one): (_at(s, card), card.device_port) for s, card in _every(table) for one in card.device_ips}
    for server, card in _every(table):
        own = {*map(_spelt, card.device_ips)}
        for one in map(_spelt, card.backup_device_ips):
            if one in own:
                yield Problem(
                    where=_at(server, card), text=f"backup_device_ip {one} is the device's own device_ip", source=source
                )
                continue
            where, port = main_ports.get(one, ("", None))
            if port is not None and port == card.backup_device_port:
                yield Problem(
                    where=_at(server, card),
                    text=f"backup_device_port {port} is the device_port of {where}, whose address it is used with",
                    source=source,
                )


def _super_pods(table: RankTable) -> Iterator[Problem]:
    if table.version == "1.0":
        if table.super_pods:
            yield Problem(
                where="super_pod_list", text="belongs to version 1.2, and HCCL does not read it in 1.0", fatal=False
            )
        return
    for server, card in _every(table):
        number = card.super_device_id
        if number is not None and not is_whole(number):
            yield Problem(
                where=_at(server, card),
                text=f'super_device_id "{number}" must be a whole number from 0, as a string',
                source="HCCL GetSingleSuperDeviceId",
            )
    if not table.super_pods:
        yield Problem(
            where="super_pod_list",
            text="is missing: HCCL takes the servers to be in no super pod, and connects them by device_ip",
            fatal=False,
        )
        return
    yield from _super_pod_members(table)
    yield from _super_device_ids(table)


def _super_pod_members(table: RankTable) -> Iterator[Problem]:
    known = {server.id for server in table.servers}
    for identity, times in Counter(pod.id for pod in table.super_pods).items():
        if times > 1:
            yield Problem(
                where=f"super pod {identity}",
                text=f"stands {times} times in super_pod_list",
                source="HCCL GetSingleSuperPod",
            )
    members: Counter[str] = Counter()
    for pod in table.super_pods:
        members.update(set(pod.server_ids))
        for name in pod.server_ids:
            if name not in known:
                yield Problem(
                    where=f"super pod {pod.id}",
                    text=f"server {name} is not in server_list",
                    source="HCCL GetSingleSuperPodSever",
                )
    for name, times in members.items():
        if times > 1:
            yield Problem(
                where=f"server {name}",
                text=f"stands in {times} super pods of super_pod_list: a server is in one",
                source="HCCL's user guide, rank table",
            )
    for server in table.servers:
        if server.id not in members:
            yield Problem(
                where=f"server {server.id}",
                text="is in no super pod of super_pod_list",
                source="HCCL CheckSuperPodInfo",
            )


def _super_device_ids(table: RankTable) -> Iterator[Problem]:
    """Check that every card of a super pod has a super_device_id of its own."""
    source = "HCCL CheckSuperPodInfo"
    for server, card in _every(table):
        if card.super_device_id is None:
            yield Problem(
                where=_at(server, card), text="super_device_id is missing: super_pod_list needs it", source=source
            )
        elif is_whole(card.super_device_id) and int(card.super_device_id) == _NO_SUPER_DEVICE:
            yield Problem(
                where=_at(server, card), text=f"super_device_id {_NO_SUPER_DEVICE} stands for none", source=source
            )
    for pod in table.super_pods:
        inside = tuple(server for server in table.servers if server.id in pod.server_ids)
        yield from _twice(
            RankTable(table.version, inside), "super_device_id", _super_device, source, f", in super pod {pod.id}"
        )


def _super_device(card: Card) -> list[str]:
    number = card.super_device_id
    return [str(int(number))] if number is not None and is_whole(number) else []


def _msrun(table: RankTable, *, fatal: bool) -> Iterator[Problem]:
    """Check the keys that `msrun --rank_table_file` needs. It takes the ranks of the server with the host's pod_ip, by their position in
    `device`; where anything is missing it warns in scheduler.log and leaves the ranks unchanged.

    Source: ReassignNodeRankFromRanktablefile of MindSpore's meta_server_node.cc.
    """
    source = "MindSpore ReassignNodeRankFromRanktablefile"
    yield from _same_address(table, "pod_ip", "msrun cannot tell them apart", fatal, source)
    for server in table.servers:
        if server.pod_ip is None:
            yield Problem(
                where=f"server {server.id}",
                text="pod_ip is missing: msrun --rank_table_file finds a host by it, and without it leaves the ranks as they were",
                fatal=fatal,
                source=source,
            )
        devices = [card.device for card in server.cards]
        if devices != sorted(devices):
            yield Problem(
                where=f"server {server.id}",
                text=f"devices stand in the order {', '.join(map(str, devices))}: msrun goes by position and ignores device_id",
                fatal=False,
                source=source,
            )
