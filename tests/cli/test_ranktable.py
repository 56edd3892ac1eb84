"""`petrun ranktable`, as typed."""

import json

import pytest
from typer.testing import CliRunner

from petrun.cli.app import app
from petrun.errors import ConfigError, OutputError, SetupError

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
    assert done.exit_code == 0 and "warnings" in done.stdout and "pod_ip is missing" in done.stdout
    content = json.loads(made.read_text())
    for position, server in enumerate(content["server_list"]):
        server["pod_ip"] = f"172.16.0.{position}"
    made.write_text(json.dumps(content))
    done = ranktable("lint", made)
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
    done = ranktable("convert", new, "--to", "1.0", "--out", new, "--force")
    assert "left out: super_device_id, super_pod_list" in done.stdout and new.read_text() == made.read_text()
