"""Examine which hosts of a job answer, and over the cards' own network which cards of other servers do. Nothing is started anywhere."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from petrun.cluster.card_tools import run_tool
from petrun.cluster.doctor.finding import Finding
from petrun.cluster.rank_table.table import RankTable, Server

_SECONDS = 5.0
_NO_LOSS = re.compile(r"(?<!\d)0\.00% packet loss")
"""What hccn_tool prints where every packet came back. Source: hiascend.com, HCCN Tool interface reference, ping."""


def hosts(names: Sequence[str], port: int) -> list[Finding]:
    """Return for each host, a name or an address, whether it answers a TCP connection to the port: also a refusal is an answer."""
    with ThreadPoolExecutor(max_workers=32) as pool:
        return list(pool.map(lambda name: _host(name, port), names))


def _host(name: str, port: int) -> Finding:
    try:
        socket.create_connection((name.strip("[]"), port), timeout=_SECONDS).close()
    except ConnectionRefusedError:
        return Finding(name="host", verdict="ok", text=f"{name} answers; nothing listens on port {port} now")
    except socket.gaierror:
        mend = f"getent hosts {name}    # and give the address, or add the name to /etc/hosts"
        return Finding(name="host", verdict="blocks", text=f"{name}: no such host", mend=mend)
    except OSError as error:
        why = error.strerror or f"no answer within {_SECONDS:.0f} s"
        mend = f"ping {name}    # and ask for a route, and for port {port} and those above 1023 in the firewall"
        return Finding(name="host", verdict="blocks", text=f"{name} port {port}: {why}", mend=mend)
    return Finding(name="host", verdict="ok", text=f"{name} answers, and something listens on port {port}")


def cards(table: RankTable, own: Server) -> Iterator[Finding]:
    """Yield whether each card of this server reaches the card at the same place of every other server, by hccn_tool."""
    others = [server for server in table.servers if server is not own]
    tool = shutil.which("hccn_tool")
    if tool is None or not others:
        text = "not on PATH: the cards' network is not examined" if others else "one server: the cards need no network"
        yield Finding(name="hccn", verdict="note" if others and own.cards else "ok", text=text)
        return
    for server in others:
        for card, other in zip(own.cards, server.cards, strict=False):
            for address in other.device_ips[:1]:
                where = f"card {card.device} to card {other.device} of {server.id} ({address})"
                yield _ping(tool, card.device, address, where)


def _ping(tool: str, device: int, address: str, where: str) -> Finding:
    family = ["-inet6"] if ":" in address else []
    _, output = run_tool([tool, "-i", str(device), "-ping", *family, "-g", "address", address])
    if _NO_LOSS.search(output):
        return Finding(name="hccn", verdict="ok", text=f"{where}: every packet came back")
    last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "no answer")
    mend = f"hccn_tool -i {device} -link -g; hccn_tool -i {device} -gateway -g"
    return Finding(name="hccn", verdict="blocks", text=f"{where}: {last}", mend=mend)
