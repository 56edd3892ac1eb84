"""Define the ranks of a job: how this process was started, which rank it is, and how ranks decide together.

A rank can be started in three ways, told apart by the environment before MindSpore is initialised:

    MS_ROLE                                   msrun, or a dynamic cluster by hand: MS_SCHED, or MS_WORKER
    RANK_TABLE_FILE and RANK_ID               rank-table start-up, on Ascend only
    RANK_SIZE above 1, MS_SIMULATION_LEVEL    a rehearsal: one rank of a cluster that is not there

The rank is read after the initialisation, never from the environment: a rank table changes msrun's ranks.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Literal

import mindspore as ms
import numpy as np
from mindspore import Tensor, communication, nn, ops
from numpy.typing import NDArray

from petrun.cluster import failures
from petrun.errors import PetrunError, SetupError
from petrun.parallel.context import connect, undivided

TABLES = ("RANK_TABLE_FILE", "MINDSPORE_HCCL_CONFIG_PATH")
_CLUSTER = ("MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT")

_GATHERED_AT_ONCE = 2**20
"""Values of one sum over ranks: all sums of a large table have one shape, for which one graph is compiled."""

StartUp = Literal["alone", "cluster", "rank table", "rehearsal"]


@dataclass(frozen=True, kw_only=True)
class World:
    """All ranks of the job, and this process among them."""

    rank: int = 0
    size: int = 1
    host_rank: int = 0
    """Index among the ranks of this machine, which is the card's number."""
    host_size: int = 1
    in_graph: bool = False
    """Whether only a graph can sum over ranks."""

    @property
    def first(self) -> bool:
        """The one rank that prints and writes."""
        return self.rank == 0

    def summed(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the sum over all ranks, which must call it at the same point with the same number of values. It takes about a
        millisecond.
        """
        if self.size == 1:
            return values
        # Float32, because the CPU cannot reduce integers.
        given = Tensor(values, ms.float32)
        if self.in_graph:
            with undivided():
                found: NDArray[np.float32] = _graph()(given).asnumpy()
        else:
            # A primitive called outside a graph runs at once, in either mode.
            found = ops.AllReduce()(given).asnumpy()
        return found

    def gathered(self, rows: NDArray[np.int64], values: NDArray[np.float64], total: int) -> NDArray[np.float64]:
        """Return the table (total, K) whose row `rows[i]` is `values[i]`, bit for bit, of the one rank that gave it.

        Inputs: rows (n,), numbers below `total` that no other rank gives; values (n, K), where a rank without rows may have any K. Every
        rank must call it at the same point with the same `total`.
        """
        widths = np.zeros(self.size, np.float32)
        widths[self.rank] = values.shape[1] if len(rows) else 0
        width = int(self.summed(widths).max())
        # A sum over ranks keeps whole numbers of 16 bits, four of which hold the bits of a float64; other ranks add 0.
        words = np.zeros((total, 4 * width), np.float32)
        if len(rows):
            words[rows] = np.ascontiguousarray(values, np.float64).view(np.uint16)
        flat = words.reshape(-1)
        for start in range(0, len(flat), _GATHERED_AT_ONCE):
            part = np.zeros(min(len(flat), _GATHERED_AT_ONCE), np.float32)
            end = min(start + len(part), len(flat))
            part[: end - start] = flat[start:end]
            flat[start:end] = self.summed(part)[: end - start]
        return words.astype(np.uint16).view(np.float64)

    def any_rank(self, flag: bool) -> bool:
        """Return whether `flag` is true on any rank. Every rank must call it at the same point."""
        return bool(self.summed(np.array([flag], np.float32))[0] > 0.0)

    def ranks_where(self, flag: bool) -> list[int]:
        """Return the ranks on which `flag` is true. Every rank must call it at the same point."""
        mine = np.zeros(self.size, np.float32)
        mine[self.rank] = flag
        return [int(rank) for rank in np.flatnonzero(self.summed(mine) > 0.0)]

    def of_first_rank(self, flag: bool) -> bool:
        """Return the flag of the first rank. Every rank must call it at the same point."""
        return self.any_rank(flag and self.first)

    def fail_together(self) -> FailTogether:
        """A context manager that fails on all ranks or on none: an error on one rank raises SetupError on the others at
        once, with the rank and the reason. Every rank must enter the same blocks; inside one no rank may wait for another."""
        return FailTogether(self)

    def failed(self, own: Exception | None) -> list[failures.Failure]:
        """Exchange the failures, `own` among them. Only for ranks that all know that one failed."""
        if self.size == 1:
            return []
        try:
            return failures.failures_in(self.summed(failures.failure_table(own, self.rank, self.size)))
        except RuntimeError:
            # A rank has ended by now. This rank's own error must still be reported.
            return []

    def differing(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """Return the keys whose value differs from the first rank's; () on the first. All ranks must have the same keys."""
        if self.size == 1:
            return ()
        mine = np.array([_words(f"{key}={value}") for key, value in sorted(values.items())], np.float32)
        firsts = self.summed(mine if self.first else np.zeros_like(mine))
        return tuple(key for key, same in zip(sorted(values), (firsts == mine).all(1), strict=True) if not same)

    @contextmanager
    def rank_in_errors(self) -> Iterator[None]:
        """A context manager that puts this rank's number in front of an error's message, where there are several ranks."""
        try:
            yield
        except PetrunError as error:
            if self.size > 1:
                error.message = f"rank {self.rank} of {self.size}: {error.message}"
            raise


class FailTogether:
    """The context manager of World.fail_together. Every Exception counts as a failure. A signal does not: it ends this process without
    waiting for the other ranks, which get it too or are ended by the process that watches the job."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            if self.world.any_rank(False):
                raise failures.error_of_others(self.world.failed(None))
        elif isinstance(error, Exception):
            # Where the exchange itself fails, because a rank has ended, this rank's own error is still raised.
            with suppress(RuntimeError):
                self.world.any_rank(True)
                self.world.failed(error)


class Sum(nn.Cell):
    """The sum over all ranks, compiled once for each shape."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.sum = ops.AllReduce()

    def construct(self, values: Tensor) -> Tensor:
        return self.sum(values)


@lru_cache(maxsize=1)
def _graph() -> Sum:
    return Sum()


ALONE = World()


def is_scheduler() -> bool:
    """Return whether this process is the job's scheduler, which the same command line starts and which runs no part of the job."""
    return os.environ.get("MS_ROLE") == "MS_SCHED"


def serve() -> None:
    """Run as the scheduler: connect the ranks, and return when all of them have ended. Raises SetupError where one was lost."""
    # MindSpore waits without returning to Python, where a handler would run, so a signal ends the process itself.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    _require_cluster()
    connect("the scheduler")


def start_up() -> StartUp:
    """Return how this process was started. Raises SetupError for an environment that matches none of the three ways."""
    env = os.environ
    if "MS_ROLE" in env:
        if env["MS_ROLE"] not in ("MS_WORKER", "MS_SCHED"):
            raise SetupError(
                f"MS_ROLE is {env['MS_ROLE']!r}",
                hint="A rank is started with MS_ROLE=MS_WORKER, the scheduler with MS_SCHED.",
            )
        return "cluster"
    if any(env.get(name) for name in TABLES) and "RANK_ID" in env:
        return "rank table"
    if env.get("MS_SIMULATION_LEVEL") and _ranks() > 1:
        return "rehearsal"
    return "alone"


def join(target: str) -> World:
    """Connect with the other ranks of the job, if there are any. Call it after the device is set and before any tensor is made.

    `target`: "cpu" or "ascend". Raises SetupError with the likely cause.
    """
    how = start_up()
    if how == "alone":
        return ALONE
    if how == "cluster":
        _require_cluster()
    elif target == "cpu":
        table = next((name for name in TABLES if os.environ.get(name)), "MS_SIMULATION_LEVEL")
        raise SetupError(
            f"{table} is set, but this process computes on the CPU: start-up by rank table and rehearsals are for Ascend",
            hint="On CPU the ranks are started by msrun. A single process: unset it.",
        )
    connect(how)
    return World(
        rank=communication.get_rank(),
        size=communication.get_group_size(),
        host_rank=communication.get_local_rank(),
        host_size=communication.get_local_rank_size(),
        # HCCL started by a rank table has a communicator for graphs and none for single operators.
        in_graph=how == "rank table",
    )


def _words(text: str) -> list[int]:
    """Return 96 bits of a digest, as integers that float32 holds."""
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).digest()
    return [int.from_bytes(digest[i : i + 2], "little") for i in range(0, 12, 2)]


def _ranks() -> int:
    size = os.environ.get("RANK_SIZE", "1")
    if not size.isdecimal():
        raise SetupError(f"RANK_SIZE is {size!r}", hint="It is the number of ranks.")
    return int(size)


def _require_cluster() -> None:
    missing = [name for name in _CLUSTER if not os.environ.get(name)]
    if missing:
        raise SetupError(
            f"MS_ROLE is set, but not {', '.join(missing)}",
            hint="msrun sets them all; by hand: the number of ranks, and the scheduler's address and port.",
        )
