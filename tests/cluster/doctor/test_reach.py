"""Which hosts answer, and which cards do by hccn_tool."""

import os
import socket

import pytest

from petrun.cluster.doctor import reach
from petrun.cluster.rank_table.table import Card, RankTable, Server


def test_a_host_that_listens_one_that_refuses_and_one_that_is_not_there():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (found,) = reach.hosts(["127.0.0.1"], port)
        assert found.verdict == "ok" and f"something listens on port {port}" in found.text
    (found,) = reach.hosts(["localhost"], port)
    assert found.verdict == "ok" and "nothing listens" in found.text


def test_a_host_without_a_name_and_one_without_an_answer(monkeypatch):
    def connect(place, timeout):
        raise {"nowhere": socket.gaierror(-2, "Name or service not known"), "silent": TimeoutError()}[place[0]]

    monkeypatch.setattr(reach.socket, "create_connection", connect)
    first, second = reach.hosts(["nowhere", "silent"], 8118)
    assert (first.verdict, second.verdict) == ("blocks", "blocks")
    assert "no such host" in first.text and "silent port 8118: no answer within 5 s" in second.text
    assert first.mend.startswith("getent hosts nowhere") and second.mend.startswith("ping silent")


@pytest.fixture
def table():
    servers = [
        Server(id=f"10.0.0.{n}", cards=(Card(rank=n - 1, device=3, device_ip=f"192.168.100.{n}"),)) for n in (1, 2, 3)
    ]
    return RankTable("1.0", tuple(servers))


def test_cards_ask_each_other_by_hccn_tool(table, tmp_path, monkeypatch):
    """A tool that prints what hccn_tool prints: 0.00% loss of one address, a time-out of the other."""
    tool = tmp_path / "hccn_tool"
    tool.write_text(
        '#!/bin/sh\necho "$@" >> ' + str(tmp_path / "asked") + '\ncase "$*" in\n'
        '*100.2) echo "3 packets transmitted, 3 received, 0.00% packet loss";;\n'
        '*) echo "recv time out seq=2"; echo "3 packets transmitted, 0 received, 100.00% packet loss";;\nesac\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    first, second = reach.cards(table, table.servers[0])
    assert first.verdict == "ok" and "card 3 to card 3 of 10.0.0.2 (192.168.100.2)" in first.text
    assert second.verdict == "blocks" and "100.00% packet loss" in second.text and "-link -g" in second.mend
    assert (tmp_path / "asked").read_text().splitlines()[0] == "-i 3 -ping -g address 192.168.100.2"


def test_without_the_tool_the_cards_network_is_not_examined(table, monkeypatch):
    monkeypatch.setenv("PATH", "")
    (found,) = reach.cards(table, table.servers[0])
    assert found.verdict == "note" and "not examined" in found.text
