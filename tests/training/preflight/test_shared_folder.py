"""The run folder of a job whose ranks are on several hosts: each rank must see what the first one writes."""

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from petrun.cluster.world import World
from petrun.errors import OutputError, SetupError
from petrun.training.preflight import shared_folder as shared_out
from petrun.training.run_folder import RunFolder


@dataclass
class Meeting:
    """Where the ranks of a job that are threads sum up."""

    size: int
    barrier: threading.Barrier = field(init=False)
    given: dict = field(default_factory=dict)

    def __post_init__(self):
        self.barrier = threading.Barrier(self.size, timeout=20)

    def summed(self, rank, values):
        self.given[rank] = values
        self.barrier.wait()
        total = np.sum([self.given[rank] for rank in range(self.size)], axis=0, dtype=np.float32)
        self.barrier.wait()
        return total


class Rank(World):
    """A rank whose sums go over threads."""

    def __init__(self, rank, meeting):
        super().__init__(rank=rank, size=meeting.size)
        object.__setattr__(self, "meeting", meeting)

    def summed(self, values):
        return self.meeting.summed(self.rank, values)


def check(*places):
    """What each of the ranks, whose --out is the folder at its place, ends with; None: all is well."""
    meeting, ended = Meeting(len(places)), {}

    def run(rank):
        try:
            ended[rank] = shared_out.require_shared(
                RunFolder(path=places[rank], algo="lora", format="ckpt"), Rank(rank, meeting)
            )
        except (OutputError, SetupError) as error:
            ended[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(places))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [ended[rank] for rank in range(len(places))]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(shared_out, "PATIENCE_SECONDS", 0.2)


def test_one_folder_that_all_ranks_see(tmp_path):
    assert check(tmp_path, tmp_path, tmp_path) == [None] * 3
    assert list(tmp_path.iterdir()) == [], "the file is gone again"


def test_a_folder_of_the_same_name_on_another_disk_is_not_it(tmp_path):
    own, other = tmp_path / "disk-0" / "run", tmp_path / "disk-1" / "run"
    own.mkdir(parents=True)
    other.mkdir(parents=True)
    first, second, third = check(own, other, own)
    assert (
        isinstance(second, OutputError)
        and f"--out {other}: this rank does not see what rank 0 writes" in second.message
    )
    assert "on a disk that all hosts share" in second.hint
    # The others end with it, and say who it was.
    assert isinstance(first, SetupError) and first.message.startswith("rank 1 failed: --out")
    assert isinstance(third, SetupError)
    assert list(own.iterdir()) == list(other.iterdir()) == []


def test_a_folder_that_is_not_there_and_one_that_cannot_be_written(tmp_path):
    first, second = check(tmp_path, tmp_path / "missing")
    assert isinstance(second, OutputError) and isinstance(first, SetupError)
    first, second = check(tmp_path / "missing", tmp_path)
    assert isinstance(first, OutputError) and isinstance(second, SetupError)
