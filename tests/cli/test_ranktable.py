"""`petrun ranktable`, as typed."""

import json
import threading

import pytest
from typer.testing import CliRunner

from petrun.cli.app import app
from petrun.errors import ConfigError, OutputError, SetupError
from tests.cluster.rank_table.test_rules import grouped

MAKE = ["make", "--hosts", "10.0.0.1,10.0.0.2", "--cards-per-host", "2"]
IPS = ["--device-ips", "192.168.0.1,192.168.0.2,192.168.1.1,192.168.1.2"]


def ranktable(*arguments):
    done = CliRunner().invoke(app, ["ranktable", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.fixture
def made(tmp_path):
    path = tmp_path / "hccl.json"
    assert ranktable(*MAKE, *IPS, "--out", path).stdout.startswith(f"wrote {path}: version 1.0, 2 servers with 2 cards")
    return path


def test_make_prints_or_writes_and_replaces_nothing(made, tmp_path):
    text = made.read_text()
    assert ranktable(*MAKE, *IPS).stdout == text
    with pytest.raises(OutputError, match="exists"):
        ranktable(*MAKE, *IPS, "--pod-ips", "server_id", "--out", made)
    assert made.read_text() == text
    ranktable(*MAKE, *IPS, "--pod-ips", "server_id", "--out", made, "--force")
    assert [s["pod_ip"] for s in json.loads(made.read_text())["server_list"]] == ["10.0.0.1", "10.0.0.2"]
    with pytest.raises(OutputError, match="does not exist"):
        ranktable(*MAKE, *IPS, "--out", tmp_path / "none" / "hccl.json")
    assert [p.name for p in tmp_path.iterdir()] == ["hccl.json"]


def test_make_reads_hccn_files(made, tmp_path):
    for host, third in (("a", 0), ("b", 1)):
        lines = [f"address_{card}=192.168.{third}.{card + 1}" for card in range(8)]
        (tmp_path / f"{host}.conf").write_text("\n".join(lines))
    files = ["--hccn", f"10.0.0.1={tmp_path}/a.conf", "--hccn", f"10.0.0.2={tmp_path}/b.conf"]
    assert ranktable(*MAKE, *files).stdout == made.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*MAKE], "--device-ips, or --hccn"),
        ([*MAKE, *IPS, "--hccn", "a=b"], "both give"),
        ([*MAKE[:3]], "--cards-per-host or --devices"),
        ([*MAKE[:3], "--cards-per-host", "0"], "between 1 and 1024"),
        ([*MAKE[:3], "--devices", "0,x"], "whole numbers"),
        ([*MAKE, *IPS, "--table-version", "1.1"], "--table-version 1.1"),
        ([*MAKE, "--hccn", "10.0.0.1"], "HOST=FILE"),
        ([*MAKE, "--hccn", "a=b", "--hccn", "a=c"], "a is given twice"),
    ],
)
def test_make_refuses(arguments, words):
    with pytest.raises(ConfigError) as caught:
        ranktable(*arguments)
    assert words in str(caught.value)


def test_lint_lists_everything_and_exits_by_it(made):
    done = ranktable("lint", made)
    assert done.exit_code == 0 and done.stdout.strip() == f"{made}: version 1.0, 2 servers with 2 cards: good"
    done = ranktable("lint", made, "--start", "msrun-table")
    assert done.exit_code == 1 and "server 10.0.0.1: pod_ip is missing" in done.stdout
    content = json.loads(made.read_text())
    for position, server in enumerate(content["server_list"]):
        server["pod_ip"] = f"172.16.0.{position}"
    made.write_text(json.dumps(content))
    done = ranktable("lint", made, "--start", "msrun-table")
    assert done.exit_code == 0 and done.stdout.strip() == f"{made}: version 1.0, 2 servers with 2 cards: good"
    content["server_list"][1]["device"][0]["rank_id"] = "0"
    content["server_count"] = 2
    made.write_text(json.dumps(content))
    done = ranktable("lint", made)
    assert done.exit_code == 1 and "cannot be used" in done.stdout
    assert "server 10.0.0.2, device 0: rank_id 0 is that of server 10.0.0.1" in done.stdout
    assert "server_count 2 is a number" in done.stdout
    made.write_text('{"status": "initializing"}')
    done = ranktable("lint", made)
    assert done.exit_code == 1 and "initializing" in done.stdout and "Wait until" in done.stdout
    with pytest.raises(SetupError, match="cannot be read"):
        ranktable("lint", made.with_name("none.json"))


def rows(text):
    """The table of `show` without its head, one list of cells a process."""
    return [line.split() for line in text.splitlines() if line.startswith("10.")]


def test_show_says_who_gets_which_rank(made):
    done = ranktable("show", made)
    assert "start-up path: rank-table start-up" in done.stdout and f"RANK_TABLE_FILE={made}" in done.stdout
    assert rows(done.stdout)[2] == ["10.0.0.2", "0", "0", "2", "2", "192.168.1.1"] and len(rows(done.stdout)) == 4
    assert [row[0] for row in rows(ranktable("show", made, "--host", "1").stdout)] == ["10.0.0.2"] * 2
    with pytest.raises(SetupError, match="pod_ip"):
        ranktable("show", made, "--start", "msrun-table")
    content = json.loads(made.read_text())
    for card, rank in zip(content["server_list"][0]["device"], "10", strict=True):
        card["rank_id"] = rank
    made.write_text(json.dumps(content))
    ranktable("convert", made, "--pod-ips", "172.16.0.1,172.16.0.2", "--out", made, "--force")
    assert [row[3:5] for row in rows(ranktable("show", made, "--start", "msrun-table").stdout)][:2] == [
        ["0", "1"],
        ["1", "0"],
    ]
    assert [row[3:5] for row in rows(ranktable("show", made, "--start", "msrun").stdout)][:2] == [
        ["0", "0"],
        ["1", "1"],
    ]
    with pytest.raises(ConfigError, match="Did you mean msrun"):
        ranktable("show", made, "--start", "msrum")
    with pytest.raises(SetupError, match="--host"):
        ranktable("show", made, "--host", "10.0.0.9")


def test_convert_there_and_back(made, tmp_path):
    with pytest.raises(ConfigError) as caught:
        ranktable("convert", made, "--to", "1.2")
    assert "--super-pod" in caught.value.hint and "--super-device-ids" in caught.value.hint
    new = tmp_path / "new.json"
    pods = ["--super-pod", "0=10.0.0.1", "--super-pod", "1=10.0.0.2", "--super-device-ids", "0,1,0,1"]
    ranktable("convert", made, "--to", "1.2", *pods, "--out", new)
    assert ranktable("lint", new).exit_code == 0
    content = json.loads(new.read_text())
    assert content["version"] == "1.2" and [p["super_pod_id"] for p in content["super_pod_list"]] == ["0", "1"]
    printed = ranktable("convert", new, "--to", "1.0")
    done = ranktable("convert", new, "--to", "1.0", "--out", new, "--force")
    assert new.read_text() == made.read_text() == printed.stdout
    for one in (printed, done):
        assert one.stderr == "left out, as version 1.0 has no place for it: super_device_id, super_pod_list\n"


def cross_cluster():
    """MindSpore's sample for several clusters, rank_table_cross_cluster_16pcs.json, with two devices a server."""

    def device(server, number):
        address = f"192.{number + 1}.{server}.6"
        return {
            "device_id": str(number),
            "device_ip": address,
            "rank_id": str(2 * server + number),
            "dpu_ip": "8.2.17.60",
            "numa_id": "",
        }

    servers = [
        {
            "server_id": f"server_{s}_10.0.0.{s}",
            "server_ip": f"10.0.0.{s}",
            "device": [device(s, number) for number in range(2)],
            "host_nic_ip": "reserve",
            "pod_ip": f"10.0.0.{s}",
        }
        for s in range(2)
    ]
    clusters = [
        {
            "cluster_id": f"cluster_{s}",
            "network_type": "ROCE",
            "az_id": "az0",
            "region_id": "region0",
            "server_list": [{"server_id": servers[s]["server_id"]}],
        }
        for s in range(2)
    ]
    return {
        "version": "1.0",
        "server_count": "2",
        "server_list": servers,
        "cluster_list": clusters,
        "status": "completed",
    }


def test_convert_keeps_what_petrun_does_not_know(tmp_path):
    path = tmp_path / "sample.json"
    content = cross_cluster()
    path.write_text(json.dumps(content))
    done = ranktable("lint", path)
    assert (done.exit_code, done.stdout.strip()) == (0, f"{path}: version 1.0, 2 servers with 2 cards: good")
    done = ranktable("convert", path, "--pod-ips", "172.16.0.1,172.16.0.2")
    for server, pod_ip in zip(content["server_list"], ("172.16.0.1", "172.16.0.2"), strict=True):
        server["pod_ip"] = pod_ip
    assert json.loads(done.stdout) == content and done.stderr == ""
    content["note"] = {"by": ["hand"]}
    for server in content["server_list"]:
        for card in server["device"]:
            card |= {"bandwidth": 200, "device_port": "16666", "device_vnic_port": "16667"}
    path.write_text(json.dumps(content))
    done = ranktable("lint", path)
    assert done.exit_code == 0 and done.stdout.count("bandwidth") == 1 and "device 0 and 3 more: unknown" in done.stdout
    pods = ["--super-pod", "0=server_0_10.0.0.0,server_1_10.0.0.1", "--super-device-ids", "0,1,2,3"]
    there = ranktable("convert", path, "--to", "1.2", *pods)
    assert there.exit_code == 0 and there.stderr == ""
    (tmp_path / "there.json").write_text(there.stdout)
    back = ranktable("convert", tmp_path / "there.json", "--to", "1.0")
    assert json.loads(back.stdout) == content


def test_lint_waits_for_a_table_that_is_being_filled_in(made, tmp_path):
    """As HCCL does, which looks each second."""
    path = tmp_path / "late.json"
    path.write_text('{"status": "initializing"}')
    filled = threading.Timer(0.3, lambda: path.write_text(made.read_text()))
    filled.start()
    done = ranktable("lint", path, "--wait", "20")
    filled.join()
    assert done.exit_code == 0 and done.stdout.strip().endswith("good") and "waiting up to 20 s" in done.stderr
    path.write_text('{"status": "initializing"}')
    done = ranktable("lint", path, "--wait", "0.01")
    assert done.exit_code == 1 and "--wait 1800" in done.stdout


def test_convert_reads_the_format_before_1_0(tmp_path):
    path, new = tmp_path / "old.json", tmp_path / "new.json"
    path.write_text(json.dumps(grouped()))
    assert ranktable("lint", path).exit_code == 0
    done = ranktable("convert", path, "--out", new)
    lost = "group_count, group_name, instance_count, device_count, pod_name"
    assert done.stderr == f"left out, as version 1.0 has no place for it: {lost}\n"
    assert json.loads(new.read_text())["server_list"][1] == {
        "server_id": "10.0.0.9",
        "device": [{"device_id": str(d), "device_ip": f"192.168.0.{d + 1}", "rank_id": str(2 + d)} for d in range(2)],
    }
    assert ranktable("lint", new).stdout.strip() == f"{new}: version 1.0, 2 servers with 2 cards: good"


def test_the_card_is_one_that_hccl_has_rules_for(made):
    content = json.loads(made.read_text())
    content["server_list"][1]["device"][1]["device_id"] = "12"
    made.write_text(json.dumps(content))
    assert [ranktable("lint", made, "--card", card).exit_code for card in ("a1", "910", "A2", "910B", "a3")] == [
        1,
        1,
        0,
        0,
        0,
    ]
    with pytest.raises(ConfigError, match="--card 310: unknown"):
        ranktable("lint", made, "--card", "310")
