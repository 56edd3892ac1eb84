"""Ranks of one job as threads of one process: they wait for each other as processes do, and fail together."""

import threading
from contextlib import contextmanager

from petrun.errors import PetrunError, SetupError
from petrun.tensors.pieces import Cut


class Ranks:
    """`each(work)` calls work(rank) on all of them at once."""

    def __init__(self, stages):
        self.stages = stages
        self.count = len(stages) * next(iter(stages[0].values())).count
        self.barrier = threading.Barrier(self.count, timeout=60)
        self.failed = False

    @contextmanager
    def together(self):
        """As World.together."""
        try:
            yield
        except PetrunError:
            self.agree(True)
            raise
        if self.agree(False):
            raise SetupError("another rank failed")

    def agree(self, flag):
        """Twice: what they agreed on must be read by all before one goes on to the next vote."""
        self.failed = self.failed or flag
        self.barrier.wait()
        agreed = self.failed
        if self.barrier.wait() == 0:
            self.failed = False
        self.barrier.wait()
        return agreed

    def cut(self, rank):
        layouts = self.stages[rank * len(self.stages) // self.count]
        return Cut(rank, self.count, len(self.stages), layouts, self.together)

    def each(self, work):
        """{rank: the error it ended with}."""
        errors = {}
        self.failed = False

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
