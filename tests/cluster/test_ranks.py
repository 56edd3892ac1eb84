"""The shape of a job, its ranks' environment, its scheduler's port, and the logs it leaves."""

import os
import socket

import pytest

from petrun.cluster import ports
from petrun.cluster.processes.logs import Follower, tail
from petrun.cluster.ranks import Cluster, make_cluster, rank_environment, scheduler_environment
from petrun.errors import ConfigError, SetupError


def test_shapes():
    assert make_cluster(None, None, None, None, None) == Cluster(
        cards=1, hosts=1, host_rank=0, address="127.0.0.1", port=None
    )
    assert make_cluster(8, None, None, None, 9000) == Cluster(cards=8, port=9000)
    two = make_cluster(16, 2, 1, "10.0.0.1", None)
    assert two == Cluster(cards=16, hosts=2, host_rank=1, address="10.0.0.1", port=8118)
    assert two.local == 8 and list(two.ranks) == list(range(8, 16))
    # One host may be spelt out, too.
    assert make_cluster(2, 1, 0, None, None) == Cluster(cards=2)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ((0, None, None, None, None), ["--cards 0: must be at least 1"]),
        ((2, 0, -1, None, 0), ["--hosts 0: must", "--host-rank -1: must", "--master-port 0: must be between 1 and 65535"]),
        ((6, 4, 0, "a", None), ["--cards 6: must be a multiple of --hosts 4", "Try --cards 8"]),
        ((None, 2, 0, "a", None), ["--cards: must be a multiple of --hosts 2", "Try --cards 2"]),
        ((8, 2, None, None, None), ["needs --host-rank, 0 to 1", "needs --master-addr"]),
        ((8, 2, 2, "a", None), ["--host-rank 2: must be below --hosts 2"]),
        ((8, None, 1, "10.0.0.1", None), ["--host-rank 1: there is only one host", "--master-addr 10.0.0.1: there is only one"]),
    ],
)  # fmt: skip
def test_shapes_that_are_none(asked, words):
    with pytest.raises(ConfigError) as caught:
        make_cluster(*asked)
    for word in words:
        assert word in caught.value.message


def test_environment_of_a_rank_and_of_the_scheduler():
    cluster = Cluster(cards=8, hosts=2, host_rank=1, address="10.0.0.1", port=8118)
    base = {"HOME": "/root", "RANK_ID": "77", "DEVICE_ID": "5", "MS_NODE_TIMEOUT": "9"}
    assert rank_environment(base, cluster, 6, 8119) == {
        "HOME": "/root",
        "MS_ROLE": "MS_WORKER",
        "MS_WORKER_NUM": "8",
        "MS_SCHED_HOST": "10.0.0.1",
        "MS_SCHED_PORT": "8119",
        "MS_NODE_ID": "6",
        "RANK_ID": "6",
        "RANK_SIZE": "8",
        "DEVICE_ID": "2",
        "MS_TOPO_TIMEOUT": "600",
        # The user's own stays.
        "MS_NODE_TIMEOUT": "9",
        "GLOG_minloglevel": "1",
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // 4)),
    }
    own = {**base, "OMP_NUM_THREADS": "3", "GLOG_v": "4"}
    kept = rank_environment(own, cluster, 6, 8119)
    assert kept["OMP_NUM_THREADS"] == "3" and kept["GLOG_minloglevel"] == "3"
    assert "GLOG_minloglevel" not in rank_environment({"GLOG_v": "1"}, cluster, 6, 8119), (
        "whoever asks for all gets all"
    )
    scheduler = scheduler_environment(base, cluster, 8119)
    assert scheduler["MS_ROLE"] == "MS_SCHED" and not {"RANK_ID", "DEVICE_ID", "MS_NODE_ID"} & set(scheduler)
    assert rank_environment(base, Cluster(cards=1), 0, 1) == base


def test_ports():
    port = ports.free_port()
    ports.check_port("127.0.0.1", port)
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(SetupError, match=f"--master-port {port}: in use"):
            ports.check_port("127.0.0.1", port)
    with pytest.raises(SetupError, match=r"--master-addr 192\.0\.2\.1 is no address of this host"):
        ports.check_port("192.0.2.1", port)
    assert ports.resolve("localhost") == "127.0.0.1" and ports.resolve("10.1.2.3") == "10.1.2.3"
    assert ports.resolve("[::1]") == "::1"
    with pytest.raises(SetupError, match="no such host"):
        ports.resolve("no.such.host.invalid")


def test_lines_are_shown_whole(tmp_path):
    path, shown = tmp_path / "rank_0.log", []
    with path.open("wb") as file, Follower(path, shown.append) as follower:
        for part, expected in (
            (b"one\nt", ["one"]),
            ("wo \u00e4".encode()[:4], ["one"]),
            (b"\xa4\r\nrest", ["one", "two \u00e4"]),
        ):
            file.write(part)
            file.flush()
            follower.read()
            assert shown == expected
        follower.finish()
        follower.finish()
    assert shown == ["one", "two \u00e4", "rest"]


def test_the_end_of_a_log(tmp_path):
    path = tmp_path / "rank_0.log"
    path.write_text("".join(f"step {n}\n" for n in range(1000)) + "error: it is wrong\nGive it right.\n\n")
    assert tail(path) == [*(f"step {n}" for n in range(982, 1000)), "error: it is wrong", "Give it right."]
    chain = (
        "Traceback (most recent call last):\n  a\nKeyError: 1\n\nDuring handling of the above exception, another\n\n"
    )
    chain += "Traceback (most recent call last):\n  b\nValueError: 2"
    old = "Traceback (most recent call last):\n  old\nOSError: old\nall is well\n"
    path.write_text("step 1\n" * 30 + old + chain)
    assert tail(path) == chain.splitlines()
    path.write_text("Traceback (most recent call last):\n" + "  frame\n" * 200 + "RecursionError: deep\n")
    cut = tail(path)
    assert len(cut) == 61 and cut[0].startswith("Traceback") and "..." in cut and cut[-1] == "RecursionError: deep"
    # Long ago: it was dealt with.
    path.write_text(old + "step\n" * 900)
    assert tail(path) == ["step"] * 20
    path.write_text("")
    assert tail(path) == []
    assert tail(tmp_path / "none") == ["(the log cannot be read: No such file or directory)"]
