"""A run that ends before its last step says why, and the command that resumes it."""

from pathlib import Path

import pytest

from petrun.cluster.ranks import make_cluster
from petrun.cluster.world import World
from petrun.config.commands.launch import LaunchOptions
from petrun.train.stop import RESUME_FLAGS
from petrun.training.checkpointing.checkpointer import resume_command, stop_reason


def command_of(world, monkeypatch, flags=""):
    monkeypatch.setenv(RESUME_FLAGS, flags)
    return resume_command(Path("runs/my lora"), world)


def test_the_command_that_resumes_starts_the_same_ranks(monkeypatch):
    asked = LaunchOptions(
        cards=4, hosts=2, host_rank=1, master_addr="10.0.0.1", master_port=9000, grace=3.0, max_restarts=2
    )
    flags = asked.rank_flags()
    assert flags == "--cards 4 --hosts 2 --host-rank 1 --master-addr 10.0.0.1 --master-port 9000"
    # What it names is a whole job again.
    assert make_cluster(4, 2, 1, "10.0.0.1", 9000).ranks == range(2, 4)
    said = command_of(World(rank=2, size=4, host_rank=0, host_size=2), monkeypatch, flags)
    assert said == f"petrun resume 'runs/my lora' {flags}, and on every other host with the --host-rank of that one"
    assert (
        command_of(World(rank=0, size=2, host_rank=0, host_size=2), monkeypatch, LaunchOptions(cards=2).rank_flags())
        == "petrun resume 'runs/my lora' --cards 2"
    )
    assert LaunchOptions(rank_table="a b.json").rank_flags() == "--rank-table 'a b.json'"


def test_ranks_that_petrun_did_not_start(monkeypatch):
    assert command_of(World(), monkeypatch) == "petrun resume 'runs/my lora'"
    assert (
        command_of(World(rank=0, size=2, host_rank=0, host_size=2), monkeypatch)
        == "petrun resume 'runs/my lora' --cards 2"
    )
    assert (
        command_of(World(rank=0, size=4, host_rank=0, host_size=2), monkeypatch)
        == "the same command once more, on every host"
    )


@pytest.mark.parametrize(
    ("number", "told", "words"),
    [
        (15, [0, 1, 2], "stopped by SIGTERM"),
        (15, [1], "stopped by SIGTERM to rank 1 alone"),
        (2, [0, 2], "stopped by SIGINT to ranks 0, 2 alone"),
        (None, [], "the time is up"),
    ],
)
def test_the_reason_of_an_early_end(number, told, words):
    assert stop_reason(number, told, 3) == words
