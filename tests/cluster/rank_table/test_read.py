"""Rank tables: every rule, each broken in one place of a good table; and the way a table is written and read back."""

import copy
import json

import pytest

from petrun.cluster.rank_table.dump import table_text
from petrun.cluster.rank_table.make import TableOptions, convert, device_ips, make, read_hccn
from petrun.cluster.rank_table.read import examine, read_rank_table
from petrun.cluster.rank_table.start_paths import processes
from petrun.cluster.rank_table.table import RankTable, SuperPod
from petrun.errors import ConfigError, SetupError


def table(version="1.0", servers=2, cards=2):
    """A table as the documentation writes it, by hand: nothing here comes from petrun."""
    made = {
        "version": version,
        "status": "completed",
        "server_count": str(servers),
        "server_list": [
            {
                "server_id": f"10.0.0.{s + 1}",
                "pod_ip": f"172.16.0.{s + 1}",
                "device": [
                    {"device_id": str(c), "device_ip": f"192.168.{s}.{c + 1}", "rank_id": str(s * cards + c)}
                    for c in range(cards)
                ],
            }
            for s in range(servers)
        ],
    }
    if version == "1.2":
        made["super_pod_list"] = [
            {"super_pod_id": "0", "server_list": [{"server_id": one["server_id"]} for one in made["server_list"]]}
        ]
        for s, one in enumerate(made["server_list"]):
            for c, card in enumerate(one["device"]):
                card["super_device_id"] = str(1000 * s + c)
    return made


def changed(change, version="1.0", **more):
    made = table(version, **more)
    change(made, made["server_list"])
    return made


def write(folder, content):
    path = folder / "hccl.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("version", ["1.0", "1.2"])
def test_a_good_table_is_read_and_written_back(tmp_path, version):
    made = table(version)
    made["server_list"][0] |= {"host_nic_ip": "reserve", "container_ip": "172.16.0.1", "hardware_type": "800I-A2"}
    path = write(tmp_path, made)
    found, problems = examine(path)
    assert problems == () and isinstance(found, RankTable)
    assert (found.version, found.cards, [s.id for s in found.servers]) == (version, 4, ["10.0.0.1", "10.0.0.2"])
    card = found.servers[1].cards[0]
    assert (card.rank, card.device, card.device_ip) == (2, 0, "192.168.1.1")
    assert json.loads(table_text(found)) == made
    assert read_rank_table(path, for_msrun=True) == found


def on(s, c, **values):
    def change(made, servers):
        servers[s]["device"][c] |= values

    return change


def without(s, c, key):
    return lambda made, servers: servers[s]["device"][c].pop(key)


BROKEN = {
    "initializing": (lambda t, s: t.update(status="initializing"), "1.0", ["status is initializing", "Wait until"]),
    "status": (lambda t, s: t.update(status="done"), "1.0", ['status "done" must be completed']),
    "version": (lambda t, s: t.update(version="2.0"), "1.0", ["version 2.0", "1.0 or 1.2"]),
    "no version": (lambda t, s: t.pop("version"), "1.0", ["version is missing"]),
    "version as a number": (lambda t, s: t.update(version=1.0), "1.0", ["version 1.0 is a number"]),
    "count": (lambda t, s: t.update(server_count="3"), "1.0", ["server_count is 3, and server_list has 2"]),
    "count as a number": (lambda t, s: t.update(server_count=2), "1.0", ["server_count 2 is a number", '"2"']),
    "no servers": (lambda t, s: t.update(server_list=[]), "1.0", ["server_list must be a list"]),
    "server is text": (lambda t, s: s.append("10.0.0.3"), "1.0", ["server_list[2] must be an object"]),
    "no server_id": (lambda t, s: s[1].pop("server_id"), "1.0", ["server_list[1]: server_id is missing"]),
    "server twice": (lambda t, s: s[1].update(server_id="10.0.0.1"), "1.0", ["server 10.0.0.1: stands 2 times"]),
    "no devices": (lambda t, s: s[1].pop("device"), "1.0", ["server 10.0.0.2: device is missing"]),
    "rank as a number": (on(1, 0, rank_id=2), "1.0", ["server 10.0.0.2, device 0: rank_id 2 is a number"]),
    "device as a number": (on(1, 0, device_id=0), "1.0", ["server 10.0.0.2, device 0: device_id 0 is a number"]),
    "rank below 0": (on(1, 1, rank_id="-1"), "1.0", ["device 1: rank_id", "-1", "whole number"]),
    "rank is true": (on(1, 1, rank_id=True), "1.0", ["device 1: rank_id true must be a string"]),
    "no rank": (without(0, 1, "rank_id"), "1.0", ["server 10.0.0.1, device 1: rank_id is missing"]),
    "rank twice": (
        on(1, 1, rank_id="0"),
        "1.0",
        ["server 10.0.0.2, device 1: rank_id 0 is that of server 10.0.0.1, device 0 too", "3 is missing"],
    ),
    "gap": (on(1, 1, rank_id="9"), "1.0", ["0 to 3, and 3 is missing", "server 10.0.0.2, device 1 has 9"]),
    "device twice": (on(0, 1, device_id="0"), "1.0", ["server 10.0.0.1, device 0: device_id stands 2 times"]),
    "address twice": (
        on(1, 1, device_ip="192.168.0.1"),
        "1.0",
        ["server 10.0.0.2, device 1: device_ip 192.168.0.1 is that of server 10.0.0.1, device 0"],
    ),
    "no address": (without(1, 1, "device_ip"), "1.0", ["server 10.0.0.2, device 1: device_ip is missing"]),
    "bad address": (on(1, 1, device_ip="192.168.1"), "1.0", ['device_ip "192.168.1" is no IP address']),
    "no super device": (without(1, 0, "super_device_id"), "1.2", ["10.0.0.2, device 0: super_device_id is missing"]),
    "super device twice": (
        on(1, 0, super_device_id="1"),
        "1.2",
        ["device 0: super_device_id 1 is that of server 10.0.0.1"],
    ),
    "server in no pod": (
        lambda t, s: t["super_pod_list"][0]["server_list"].pop(),
        "1.2",
        ["server 10.0.0.2: is in no super pod"],
    ),
    "pod of a stranger": (
        lambda t, s: t["super_pod_list"][0]["server_list"].append({"server_id": "10.9.9.9"}),
        "1.2",
        ["super pod 0: server 10.9.9.9 is not in server_list"],
    ),
    "server in two pods": (
        lambda t, s: t["super_pod_list"].append({"super_pod_id": "1", "server_list": [{"server_id": "10.0.0.1"}]}),
        "1.2",
        ["server 10.0.0.1: stands in 2 super pods"],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_named_with_server_and_device(tmp_path, name):
    change, version, words = BROKEN[name]
    path = write(tmp_path, changed(change, version))
    with pytest.raises(SetupError) as caught:
        read_rank_table(path)
    assert caught.value.message.startswith(f"rank table {path}:")
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_all_problems_come_at_once(tmp_path):
    def change(made, servers):
        made["server_count"] = 3
        servers[0]["device"][0]["rank_id"] = 0
        servers[1]["device"][1]["device_ip"] = "192.168.0.1"

    with pytest.raises(SetupError) as caught:
        read_rank_table(write(tmp_path, changed(change)))
    for word in (
        "server_count 3 is a number",
        "server_list has 2",
        "rank_id 0 is a number",
        "device_ip 192.168.0.1 is that",
    ):
        assert word in caught.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n"version": "1.0",\n}', "line 3: is not JSON"),
        ("[]", "must be a JSON object, not a list"),
        ('{"version": "1.0", "version": "1.2"}', "'version' stands twice"),
        ("[" * 100_000, "rank table"),
    ],
)
def test_what_is_no_table(tmp_path, text, words):
    with pytest.raises(SetupError, match=words):
        examine(write(tmp_path, text))


def test_no_file_and_no_text(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(SetupError, match="cannot be read"):
            examine(path)
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SetupError, match="not UTF-8"):
        examine(path)


def test_what_only_msrun_minds_is_a_warning_until_msrun_is_meant(tmp_path):
    def change(made, servers):
        del servers[1]["pod_ip"]
        servers[0]["device"].reverse()
        servers[0]["device"][0]["devise_port"] = "16666"

    path = write(tmp_path, changed(change))
    found, problems = examine(path)
    assert found is not None and not any(problem.fatal for problem in problems)
    shown = "\n".join(map(str, problems))
    assert "server 10.0.0.2: pod_ip is missing" in shown
    assert "server 10.0.0.1: devices stand in the order 1, 0" in shown
    assert (
        "server 10.0.0.1, device 1: unknown key devise_port: HCCL does not read it. Did you mean device_port?" in shown
    )
    assert read_rank_table(path) == found
    with pytest.raises(SetupError, match="pod_ip is missing"):
        read_rank_table(path, for_msrun=True)
    path = write(tmp_path, changed(lambda t, s: s[1].update(pod_ip="172.16.0.1")))
    read_rank_table(path)
    with pytest.raises(SetupError, match=r"servers 10\.0\.0\.1, 10\.0\.0\.2: pod_ip 172\.16\.0\.1 is the same"):
        read_rank_table(path, for_msrun=True)


def test_which_process_gets_which_rank(tmp_path):
    """Measured with msrun on MindSpore 2.10: with ranks 1, 0 in the table, process 0 starts as rank 0 and becomes rank 1."""

    def change(made, servers):
        servers[0]["device"] = [
            {"device_id": "5", "device_ip": "192.168.0.1", "rank_id": "1"},
            {"device_id": "4", "device_ip": "192.168.0.2", "rank_id": "0"},
        ]

    found = read_rank_table(write(tmp_path, changed(change)))

    def ranks(start):
        return [(p.number, p.device, p.first_rank, p.rank) for p in processes(found, start)]

    assert ranks("ranktable") == [(0, 5, 1, 1), (1, 4, 0, 0), (0, 0, 2, 2), (1, 1, 3, 3)]
    assert ranks("msrun") == [(0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 2, 2), (1, 1, 3, 3)]
    assert ranks("msrun-table") == [(0, 0, 0, 1), (1, 1, 1, 0), (0, 0, 2, 2), (1, 1, 3, 3)]
    bare = read_rank_table(write(tmp_path, changed(lambda t, s: s[1].pop("pod_ip"))))
    with pytest.raises(SetupError, match=r"none of: 10\.0\.0\.2"):
        processes(bare, "msrun-table")


def test_a_server_is_found_by_id_address_and_position(tmp_path):
    found = read_rank_table(write(tmp_path, table()))
    assert {found.server(name).id for name in ("10.0.0.2", "172.16.0.2", "1")} == {"10.0.0.2"}
    for name in ("2", "10.0.0.3"):
        with pytest.raises(SetupError, match="no server of the rank table") as caught:
            found.server(name)
        assert "10.0.0.1, 10.0.0.2" in caught.value.hint


IPS = ["192.168.0.1", "192.168.0.2", "192.168.1.1", "192.168.1.2"]
PODS = ["172.16.0.1", "172.16.0.2"]
HOSTS = ["10.0.0.1", "10.0.0.2"]
POD = SuperPod("0", tuple(HOSTS))


def test_make_gives_the_table_that_the_documentation_shows():
    assert json.loads(table_text(make(HOSTS, [0, 1], "1.0", TableOptions(pod_ips=PODS, device_ips=IPS)))) == table()
    extra = TableOptions(pod_ips=PODS, super_pods=[POD], super_device_ids=["0", "1", "1000", "1001"], device_ips=IPS)
    assert json.loads(table_text(make(HOSTS, [0, 1], "1.2", extra))) == table("1.2")
    assert [
        s.pod_ip for s in make(HOSTS, [0, 1], "1.0", TableOptions(pod_ips=["server_id"], device_ips=IPS)).servers
    ] == HOSTS


def test_make_asks_for_what_it_does_not_have():
    for extra, version, words in [
        (TableOptions(), "1.0", "--hccn"),
        (TableOptions(device_ips=IPS[:3]), "1.0", "3 values for 4 cards"),
        (TableOptions(pod_ips=["172.16.0.1"], device_ips=IPS), "1.0", "--pod-ips: 1 values for 2 servers"),
        (TableOptions(pod_ips=["node", "other"], device_ips=IPS), "1.0", "node, other: no IP address"),
        (TableOptions(device_ips=IPS), "1.2", "Give --super-pod ID=HOST,HOST and --super-device-ids"),
        (TableOptions(device_ips=[*IPS[:3], IPS[0]]), "1.0", "device_ip 192.168.0.1 is that of"),
    ]:
        with pytest.raises(ConfigError) as caught:
            make(HOSTS, [0, 1], version, extra)
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match="at least one host"):
        make([], [0], "1.0", TableOptions())
    assert make(["a"], [0], "1.0", TableOptions()).servers[0].cards[0].device_ip is None


def test_from_one_version_to_the_other_and_back(tmp_path):
    old = read_rank_table(write(tmp_path, table()))
    new, lost = convert(old, "1.2", TableOptions(super_pods=[POD], super_device_ids=["0", "1", "1000", "1001"]))
    assert json.loads(table_text(new)) == table("1.2") and lost == ()
    back, lost = convert(new, "1.0", TableOptions())
    assert json.loads(table_text(back)) == table() and lost == ("super_device_id", "super_pod_list")
    with pytest.raises(ConfigError, match="super_device_id is missing"):
        convert(old, "1.2", TableOptions(super_pods=[POD]))
    with pytest.raises(ConfigError, match="--super-pod: version"):
        convert(old, "1.0", TableOptions(super_pods=[POD]))
    bare = copy.deepcopy(table("1.2"))
    for server in bare["server_list"]:
        for card in server["device"]:
            del card["device_ip"]
    with pytest.raises(ConfigError) as caught:
        convert(read_rank_table(write(tmp_path, bare)), "1.0", TableOptions())
    assert "--device-ips, or --hccn" in caught.value.hint


def test_card_addresses_from_hccn_conf(tmp_path):
    path = tmp_path / "hccn.conf"
    path.write_text("# cards\naddress_0=192.168.100.101\nnetmask_0=255.255.255.0\n\naddress_10 = 192.168.100.111\n")
    assert read_hccn(path) == {0: "192.168.100.101", 10: "192.168.100.111"}
    assert device_ips(["a"], [10, 0], {"a": path}) == ["192.168.100.111", "192.168.100.101"]
    with pytest.raises(ConfigError, match="no address_1"):
        device_ips(["a"], [0, 1], {"a": path})
    with pytest.raises(ConfigError, match="no file for b"):
        device_ips(["a", "b"], [0], {"a": path})
    for text, words in [
        ("address_0=192.168.100\n", "line 1"),
        ("address_0=1.1.1.1\naddress_0=1.1.1.2\n", "line 2: address_0 stands twice"),
        ("netmask_0=255.255.255.0\n", "no line address_0"),
    ]:
        path.write_text(text)
        with pytest.raises(SetupError, match=words):
            read_hccn(path)
