"""Tables that HCCL takes and tables that it refuses, by its own source (hcomm, src/framework/common/src/topo): no stricter, no laxer."""

import json

import pytest

from petrun.cluster.rank_table.read import examine, name_problem, read_rank_table
from petrun.cluster.rank_table.start import read_start
from petrun.errors import SetupError
from tests.cluster.rank_table.test_read import changed, on, table, without, write


def every(**values):
    def change(made, servers):
        for server in servers:
            for card in server["device"]:
                card |= values

    return change


def every_without(key):
    def change(made, servers):
        for server in servers:
            for card in server["device"]:
                del card[key]

    return change


def both(*changes):
    def change(made, servers):
        for one in changes:
            one(made, servers)

    return change


def each_twice(made, servers):
    for s, server in enumerate(servers):
        for c, card in enumerate(server["device"]):
            card["device_ip"] += f",192.168.{s + 10}.{c}"


def single(made, servers):
    del servers[1]
    made["server_count"] = "1"


def ipv6(address):
    return on(1, 1, device_ip=address)


def all_ipv6(made, servers):
    for s, server in enumerate(servers):
        for c, card in enumerate(server["device"]):
            card["device_ip"] = f"fe80::{s}:{c + 1}"


def two_pods(made, servers):
    made["super_pod_list"] = [
        {"super_pod_id": str(s), "server_list": [{"server_id": server["server_id"]}]}
        for s, server in enumerate(servers)
    ]


TAKEN = {
    "no server_count": (lambda t, s: t.pop("server_count"), "1.0", None),
    "1.2 without super_pod_list": (lambda t, s: t.pop("super_pod_list"), "1.2", None),
    "1.2 without either": (
        both(every_without("super_device_id"), lambda t, s: t.pop("super_pod_list")),
        "1.2",
        None,
    ),
    "several addresses": (each_twice, "1.0", None),
    "several addresses, a comma at the end": (
        both(each_twice, lambda t, s: s[0]["device"][0].update(device_ip="1.1.1.1,1.1.1.2,")),
        "1.0",
        None,
    ),
    "empty, one server": (both(single, every(device_ip="")), "1.0", None),
    "none, one server": (both(single, every_without("device_ip")), "1.0", None),
    "empty, A3": (every(device_ip=""), "1.2", None),
    "none, A3, said": (every_without("device_ip"), "1.0", "a3"),
    "none, A1, with host_ip": (
        both(every_without("device_ip"), lambda t, s: [one.update(host_ip=one["server_id"]) for one in s]),
        "1.0",
        "a1",
    ),
    "fewer devices, A2": (lambda t, s: s[1]["device"].pop(), "1.0", "a2"),
    "fewer devices, A3": (lambda t, s: s[1]["device"].pop(), "1.2", None),
    "device 15, A2": (on(1, 1, device_id="15"), "1.0", None),
    "the widest port": (every(device_port="65535", host_port="1"), "1.0", None),
    "server_id of 64": (lambda t, s: s[0].update(server_id="s" * 64), "1.0", None),
    "a name as server_id": (lambda t, s: s[0].update(server_id="node_0"), "1.0", None),
    "IPv6 throughout": (all_ipv6, "1.0", None),
    "both kinds in one server": (both(single, on(0, 1, device_ip="fe80::1")), "1.0", None),
    "an own backup, A2": (on(0, 0, backup_device_ip="192.168.0.1"), "1.0", "a2"),
    "another's backup": (on(0, 0, backup_device_ip="192.168.0.2", backup_device_port="16667"), "1.2", None),
    "super_device_id in 1.0": (every(super_device_id="none"), "1.0", None),
    "pod_ip that nobody reads": (lambda t, s: [one.pop("pod_ip") for one in s], "1.0", None),
    "group_list beside a version": (lambda t, s: t.update(group_list=[]), "1.0", None),
    "one server twice in a pod": (
        lambda t, s: t["super_pod_list"][0]["server_list"].append({"server_id": "10.0.0.1"}),
        "1.2",
        None,
    ),
    "one address for two hosts": (lambda t, s: [one.update(host_ip="10.0.0.9") for one in s], "1.0", None),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_hccl_takes_is_taken(tmp_path, name):
    change, version, product = TAKEN[name]
    found, problems = examine(write(tmp_path, changed(change, version)), product)
    assert found is not None and not [str(problem) for problem in problems if problem.fatal]


REFUSED = {
    "device 99": (on(0, 1, device_id="99"), "1.0", None, ["device 99: device_id 99", "0 to 15", "GetSingleDevice]"]),
    "device 8, A1": (on(0, 1, device_id="8"), "1.0", "a1", ["A1 has devices 0 to 7"]),
    "port 0": (on(0, 1, device_port="0"), "1.0", None, ['device_port "0"', "1 to 65535", "GetSingleDevicePort]"]),
    "port 70000": (on(0, 1, host_port="70000"), "1.0", None, ['host_port "70000"', "GetSingleDeviceHostPort]"]),
    "port as text": (on(0, 1, device_port="http"), "1.0", None, ['device_port "http"']),
    "virtual port": (on(0, 1, device_vnic_port="65536"), "1.0", None, ['device_vnic_port "65536"']),
    "backup port": (on(0, 1, backup_device_port="0"), "1.2", None, ['backup_device_port "0"']),
    "port as a number": (on(0, 1, device_port=16666), "1.0", None, ["device_port 16666 is a number"]),
    "super_device_id": (on(0, 1, super_device_id="one"), "1.2", None, ['super_device_id "one"', "whole number"]),
    "super_device_id empty": (on(0, 1, super_device_id=""), "1.2", None, ['super_device_id ""']),
    "super_device_id in two spellings": (on(0, 1, super_device_id="00"), "1.2", None, ["super_device_id 0 is that of"]),
    "super_device_id too great": (on(0, 1, super_device_id="4294967296"), "1.2", None, ["whole number"]),
    "super_device_id of none": (on(0, 1, super_device_id="4294967295"), "1.2", None, ["stands for none"]),
    "server_id of 65": (lambda t, s: s[0].update(server_id="s" * 65), "1.0", None, ["65 bytes", "64 is the most"]),
    "server_id of 22 characters": (
        lambda t, s: s[0].update(server_id="机" * 22),
        "1.0",
        None,
        ["server_id is 66 bytes long"],
    ),
    "both kinds": (ipv6("fe80::1"), "1.0", None, ["10.0.0.2, device 1: device_ip is IPv6", "CheckRankIpFamily]"]),
    "both kinds of hosts": (
        lambda t, s: [one.update(host_ip=ip) for one, ip in zip(s, ("10.0.0.1", "::1"), strict=True)],
        "1.0",
        None,
        ["host_ip is IPv6, and that of server 10.0.0.1 IPv4"],
    ),
    "one address in two spellings": (
        both(all_ipv6, ipv6("FE80:0:0:0:0:0:0:1")),
        "1.0",
        None,
        ["device_ip fe80::1 is that of server 10.0.0.1, device 0"],
    ),
    "an own backup": (
        on(0, 0, backup_device_ip="192.168.0.1"),
        "1.2",
        None,
        ["the device's own device_ip", "VerifyBackup"],
    ),
    "an own backup in two spellings": (
        both(all_ipv6, on(0, 0, backup_device_ip="fe80:0::1")),
        "1.2",
        "a3",
        ["the device's own device_ip"],
    ),
    "one backup for two": (
        both(on(0, 0, backup_device_ip="192.168.9.9"), on(0, 1, backup_device_ip="192.168.9.9")),
        "1.2",
        None,
        ["backup_device_ip 192.168.9.9 is that of"],
    ),
    "a backup's port is taken": (
        both(every(device_port="16666"), on(0, 0, backup_device_ip="192.168.0.2", backup_device_port="16666")),
        "1.2",
        None,
        ["backup_device_port 16666 is the device_port of server 10.0.0.1, device 1"],
    ),
    "ranks cross servers": (
        both(on(0, 1, rank_id="2"), on(1, 0, rank_id="1")),
        "1.0",
        None,
        ["server 10.0.0.1: its ranks 0, 2 do not follow one another"],
    ),
    "fewer devices, A1": (lambda t, s: s[1]["device"].pop(), "1.0", "a1", ["10.0.0.1 has 2, 10.0.0.2 has 1"]),
    "empty address": (on(1, 1, device_ip=""), "1.0", None, ["device_ip is missing", "GetSingleDeviceIp]"]),
    "empty address with host_ip, A2": (
        both(every(device_ip=""), lambda t, s: [one.update(host_ip=one["server_id"]) for one in s]),
        "1.0",
        "a2",
        ["device_ip is missing"],
    ),
    "none between super pods": (both(two_pods, every_without("device_ip")), "1.2", None, ["super pods reach"]),
    "an address more": (on(0, 0, device_ip="1.1.1.1,1.1.1.2"), "1.0", None, ["some have 1 and some 2"]),
    "no address in a list": (on(0, 0, device_ip="1.1.1.1,,1.1.1.2"), "1.0", None, ['device_ip "" is no IP']),
    "null": (on(0, 0, device_ip=None), "1.0", None, ["device_ip null must be a string"]),
    "host_ip": (lambda t, s: s[0].update(host_ip="reserve"), "1.0", None, ['host_ip "reserve" is no IP']),
    "no pod for the second": (without(1, 0, "super_device_id"), "1.2", None, ["super_device_id is missing"]),
    "empty super_pod_list": (lambda t, s: t.update(super_pod_list=[]), "1.2", None, ["super_pod_list must be a list"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_hccl_refuses_is_refused_with_its_function(tmp_path, name):
    change, version, product, words = REFUSED[name]
    _, problems = examine(write(tmp_path, changed(change, version)), product)
    shown = "\n".join(str(problem) for problem in problems if problem.fatal)
    for word in words:
        assert word in shown, shown


def test_a_warning_for_what_one_product_refuses(tmp_path):
    path = write(tmp_path, changed(lambda t, s: s[1]["device"].pop()))
    _, problems = examine(path)
    assert [str(one) for one in problems if "Atlas A1" in one.text] and not any(one.fatal for one in problems)
    assert not [one for one in examine(path, "a2")[1] if "Atlas A1" in one.text]


def grouped(deploy_mode=None):
    """The format before 1.0, as HCCL's tests write it: servers and devices out of order."""
    if deploy_mode is None:
        return {
            "status": "completed",
            "group_count": "1",
            "group_list": [
                {
                    "group_name": "worker",
                    "instance_count": "2",
                    "device_count": "4",
                    "instance_list": [
                        {
                            "pod_name": f"worker-{pod}",
                            "server_id": server,
                            "devices": [{"device_id": str(d), "device_ip": f"192.168.{pod}.{d + 1}"} for d in (1, 0)],
                        }
                        for pod, server in enumerate(("10.0.0.9", "10.0.0.10"))
                    ],
                }
            ],
        }
    devices = [("0", "10.0.0.1", "1"), ("1", "10.0.0.1", "0")]
    return {
        "status": "completed",
        "deploy_mode": deploy_mode,
        "para_plane_nic_location": "device",
        "group_count": "1",
        "group_list": [
            {
                "group_name": "hccl_world_group",
                "instance_count": "2",
                "device_num": "2",
                "server_num": "1",
                "instance_list": [
                    {
                        "rank_id": rank,
                        "server_id": server,
                        "devices": [{"device_id": device, "device_ip": f"192.168.0.{device}"}],
                    }
                    for rank, server, device in devices
                ],
            }
        ],
    }


def ranks(found):
    return {(server.id, card.device): (card.rank, card.device_ip) for server in found.servers for card in server.cards}


def test_the_format_before_1_0_is_read(tmp_path):
    """Ranks as GetSortClouldRankList counts them: servers by their id as text, devices by number."""
    path = write(tmp_path, grouped())
    found, problems = examine(path)
    assert [(p.where, p.fatal) for p in problems] == [("group_list", False)]
    assert ranks(found) == {
        ("10.0.0.10", 0): (0, "192.168.1.1"),
        ("10.0.0.10", 1): (1, "192.168.1.2"),
        ("10.0.0.9", 0): (2, "192.168.0.1"),
        ("10.0.0.9", 1): (3, "192.168.0.2"),
    }
    with pytest.raises(SetupError, match=r"before version 1\.0") as caught:
        read_start(str(path), 0)
    assert "petrun ranktable convert" in caught.value.hint
    found = read_rank_table(write(tmp_path, grouped("lab")))
    assert ranks(found) == {("10.0.0.1", 1): (0, "192.168.0.1"), ("10.0.0.1", 0): (1, "192.168.0.0")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update(group_count="2"), "group_count is 2, and there are 1"),
        (lambda t: t.pop("group_count"), "group_count is missing"),
        (lambda t: t["group_list"][0].update(device_count="3"), "device_count is 3, and there are 4"),
        (lambda t: t["group_list"][0].update(instance_count=2), "instance_count 2 is a number"),
        (lambda t: t["group_list"][0]["instance_list"][0].pop("server_id"), "server_id is missing"),
        (lambda t: t["group_list"][0]["instance_list"][1]["devices"][0].pop("device_id"), "device_id must be"),
        (lambda t: t["group_list"][0]["instance_list"][1]["devices"][0].update(device_id="8"), "device_id 8: a server"),
        (lambda t: t.update(group_list=[]), "group_list must be a list"),
    ],
)
def test_what_is_wrong_with_the_format_before_1_0(tmp_path, change, words):
    made = grouped()
    change(made)
    with pytest.raises(SetupError) as caught:
        read_rank_table(write(tmp_path, made))
    assert words in str(caught.value) and "topoinfo_ranktableStandard.cc" in str(caught.value)


def test_hccl_opens_files_of_one_name(tmp_path):
    assert name_problem(tmp_path / "hccl.json") is None
    for name in ("hccl.txt", "hccl", "hccl.json.bak"):
        assert name_problem(tmp_path / name) is not None
    folder = tmp_path / "tables.json"
    folder.mkdir()
    (folder / "hccl.json").write_text(json.dumps(table()))
    with pytest.raises(SetupError, match=r"does not end in \.json"):
        read_start(str(folder / "hccl.json"), 0)
    (tmp_path / "link").symlink_to(tmp_path / "hccl.json")
    assert name_problem(tmp_path / "link") is None
