"""Ranks of one job as threads of one process: they wait for each other as processes do, and fail together."""

import threading
from dataclasses import dataclass

from petrun.cluster.world import World
from petrun.errors import PetrunError
from petrun.tensors.sharded.rank_files import ShardSpec


class Meeting:
    """Where the threads sum what each of them brings."""

    def __init__(self, count):
        self.brought = [None] * count
        self.barrier = threading.Barrier(count, timeout=60)
        self.sums = 0

    def summed(self, rank, values):
        self.brought[rank] = values
        first = self.barrier.wait() == 0
        total = sum(self.brought)
        self.sums += first
        # What they brought must be read by all before one goes on to the next sum.
        self.barrier.wait()
        return total


@dataclass(frozen=True)
class Thread(World):
    meeting: Meeting | None = None

    def summed(self, values):
        return self.meeting.summed(self.rank, values)


class Ranks:
    """`each(work)` calls work(rank) on all of them at once."""

    def __init__(self, stages):
        self.stages = stages
        self.count = len(stages) * next(iter(stages[0].values())).count
        self.meeting = Meeting(self.count)

    def spec(self, rank):
        layouts = self.stages[rank * len(self.stages) // self.count]
        world = Thread(rank=rank, size=self.count, meeting=self.meeting)
        return ShardSpec(
            rank=rank, ranks=self.count, stages=len(self.stages), layouts=layouts, fail_together=world.fail_together
        )

    def each(self, work):
        """{rank: the error it ended with}."""
        errors = {}

        def one(rank):
            try:
                work(rank)
            except PetrunError as error:
                errors[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return errors
