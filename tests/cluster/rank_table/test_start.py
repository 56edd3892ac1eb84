"""Ranks that a rank table starts: which of them are this host's, what each is given, and that they run. HCCL itself is not here."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from petrun.cluster.launch import Job, JobOutput, _spell, launch
from petrun.cluster.rank_table import start as table_start
from petrun.cluster.rank_table.start import TableStart, read_start, table_environment
from petrun.cluster.ranks import Cluster, rank_environment
from petrun.commands import launch as runs_launch
from petrun.config.commands.train import TrainSettings
from petrun.errors import ConfigError, SetupError

CORES = len(os.sched_getaffinity(0))
SHARED = {"OMP_NUM_THREADS", "GLOG_minloglevel", "GLOG_v"}


@pytest.fixture
def table(tmp_path):
    """table(servers): a file that gives each server devices 4 and 5; ranks count down on the second, where not said otherwise."""

    def write(*servers, ranks=((0, 1), (3, 2))):
        def card(s, c):
            rank = ranks[s][c]
            return {"device_id": str(4 + c), "device_ip": f"192.168.{s}.{c + 1}", "rank_id": str(rank)}

        cards = [{"server_id": server, "device": [card(s, c) for c in range(2)]} for s, server in enumerate(servers)]
        made = {"version": "1.0", "status": "completed", "server_count": str(len(servers)), "server_list": cards}
        (tmp_path / "hccl.json").write_text(json.dumps(made))
        return str(tmp_path / "hccl.json")

    return write


def test_the_server_that_this_host_is(table, monkeypatch):
    alone = read_start(table("10.0.0.1"), None)
    assert (alone.cards, alone.devices, alone.hosts, alone.host_rank) == (2, {0: 4, 1: 5}, 1, 0)
    own = ["10.0.0.2"]
    monkeypatch.setattr(table_start, "is_local", lambda address: address in own)
    file = table("10.0.0.1", "10.0.0.2")
    found = read_start(file, None)
    assert (found.cards, found.devices, found.ranks) == (4, {3: 4, 2: 5}, [2, 3])
    assert (found.hosts, found.host_rank) == (2, 1) and read_start(file, 1) == found
    assert read_start(file, 0).ranks == [0, 1]
    for own[:], words in (((), "no server has"), (("10.0.0.1", "10.0.0.2"), "more than one server has")):
        with pytest.raises(SetupError, match=f"{words} an address of this host") as caught:
            read_start(file, None)
        assert "--host-rank 0" in caught.value.hint and "10.0.0.1, 10.0.0.2" in caught.value.hint
    with pytest.raises(SetupError, match="--host-rank 2: no server"):
        read_start(file, 2)


def test_a_rank_is_given_its_card_and_what_a_cluster_gives_it_beside(table):
    """Threads and the log's level are those of the other start-up, whatever the user has set of them."""
    start = read_start(table("10.0.0.1", "10.0.0.2"), 1)
    base = {"HOME": "/root", "RANK_ID": "77", "MS_ROLE": "MS_WORKER", "MS_SCHED_HOST": "10.9.9.9", "GLOG_v": "3"}
    assert table_environment(base, start, 3) == {
        "HOME": "/root",
        "GLOG_v": "3",
        "GLOG_minloglevel": "2",
        "OMP_NUM_THREADS": str(max(1, CORES // 2)),
        "RANK_TABLE_FILE": str(start.path),
        "RANK_ID": "3",
        "RANK_SIZE": "4",
        "DEVICE_ID": "4",
    }
    for given in ({}, {"OMP_NUM_THREADS": "3"}, {"GLOG_v": "1"}, {"GLOG_v": "4", "GLOG_minloglevel": "0"}):
        by_table, by_cluster = (
            table_environment(given, start, 2),
            rank_environment(given, Cluster(cards=4, hosts=2, host_rank=1), 2, 1),
        )
        assert {key: by_table[key] for key in SHARED & set(by_table)} == {
            key: by_cluster[key] for key in SHARED & set(by_cluster)
        }, given
    visible = {"ASCEND_RT_VISIBLE_DEVICES": "7, 5,4"}
    assert [table_environment(visible, start, rank)["DEVICE_ID"] for rank in (2, 3)] == ["1", "2"]
    with pytest.raises(SetupError, match=r"device 5, which ASCEND_RT_VISIBLE_DEVICES=0,4 hides"):
        table_environment({"ASCEND_RT_VISIBLE_DEVICES": "0,4"}, start, 2)


def test_its_ranks_run_without_a_scheduler(table, tmp_path):
    program = "import os; print(os.environ['RANK_ID'], os.environ['OMP_NUM_THREADS'], 'MS_ROLE' in os.environ)"
    start = read_start(table("10.0.0.1", "10.0.0.2"), 1)
    job = Job(
        command=(sys.executable, "-S", "-E", "-c", program),
        scheduler=("no", "scheduler"),
        cluster=start,
        logs=tmp_path / "logs",
    )
    out, err = [], []
    environment = {key: value for key, value in os.environ.items() if key not in SHARED}
    assert launch(job, JobOutput(out=out.append, err=err.append), environment) == 0, err
    threads = max(1, CORES // 2)
    assert out == [f"2 {threads} False"] and "ranks 2 to 3 of 4" in err[0]
    logs = tmp_path / "logs" / "attempt-1"
    assert (logs / "rank_3.log").read_text() == f"3 {threads} False\n"
    assert sorted(path.name for path in logs.iterdir()) == ["rank_2.log", "rank_3.log"]
    start = read_start(table("10.0.0.1", "10.0.0.2", ranks=((2, 3), (0, 1))), 1)
    job = replace(job, cluster=start)
    assert launch(job, JobOutput(out=out.append, err=err.append), environment) == 0 and "ranks 0 to 1 of 4" in err[-1]


def test_a_table_that_is_being_filled_in_is_waited_for(table):
    """As HCCL waits for it: the ranks would only hang in it later."""
    path = Path(table("10.0.0.1"))
    filled = path.read_text()
    path.write_text('{"status": "initializing"}')
    told = []

    def tell(text):
        told.append(text)
        path.write_text(filled)

    assert read_start(str(path), None, tell).devices == {0: 4, 1: 5}
    assert len(told) == 1 and "waiting up to 1800 s" in told[0]


def test_ranks_are_named_as_they_are():
    named = {(0,): "0", (2, 3): "2 to 3", (1, 3): "1, 3", (0, 1, 2, 5, 8, 9): "0 to 2, 5, 8 to 9"}
    assert {ranks: _spell(ranks) for ranks in named} == named


def test_hosts_of_a_table_share_one_run_folder_and_keep_their_logs_apart(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs = []
    monkeypatch.setattr(runs_launch, "launch", lambda job, output: jobs.append(job) or 0)
    monkeypatch.setattr(runs_launch, "find_target", lambda device: "ascend")
    monkeypatch.setattr("petrun.cluster.launch_options.cards_here", lambda: 8)

    def run(servers, flags, **asked):
        settings = TrainSettings(flags=flags, rank_table=table(*servers), **asked)
        return runs_launch.run(settings, lambda added: ["train", *added], JobOutput(out=print, err=print))

    out = {"out.dir": ("--out", "shared")}
    with pytest.raises(ConfigError, match="--rank-table: 2 servers: needs --out, the same on every host"):
        run(("10.0.0.1", "10.0.0.2"), {}, host_rank=0)
    assert run(("10.0.0.1", "10.0.0.2"), out, host_rank=1) == 0 and run(("10.0.0.1",), out, cards=2) == 0
    assert [str(job.logs) for job in jobs] == ["shared/logs/host-1", "shared/logs"]
    assert all(isinstance(job.cluster, TableStart) for job in jobs)
    for asked, words in (
        ({"cards": 3}, "--cards 3: the rank table has 2"),
        ({"hosts": 2}, "--hosts: the rank table says"),
    ):
        with pytest.raises(ConfigError, match=words):
            run(("10.0.0.1",), out, **asked)
    monkeypatch.setattr("petrun.cluster.launch_options.cards_here", lambda: 1)
    with pytest.raises(SetupError, match="2 cards of this host are asked for, and MindSpore finds 1"):
        run(("10.0.0.1",), out)
