"""The first sum over all ranks, before the base is loaded: where ranks cannot reach each other, it is what would wait for ever."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import numpy as np

from petrun.errors import SetupError
from petrun.parallel.world import World

_SECONDS = 180.0
"""On the CPU. Cards are linked here, for which HCCL has HCCL_CONNECT_TIMEOUT."""


def prove_sum(world: World, say: Callable[[str], None]) -> None:
    """Every rank gives its number and one. Raises SetupError where the sum is wrong; ends this process where it does not come."""
    linking = os.environ.get("HCCL_CONNECT_TIMEOUT", "")
    seconds = _SECONDS + (float(linking) if world.in_graph and linking.isdecimal() else 0.0)
    timer = threading.Timer(seconds, _give_up, (world, seconds))
    timer.daemon = True
    began = time.monotonic()
    timer.start()
    try:
        found = world.summed(np.array([world.rank, 1.0], np.float32))
    finally:
        timer.cancel()
    size = world.size
    if not np.allclose(found, [size * (size - 1) / 2, size], rtol=1e-5):
        raise SetupError(
            f"an all-reduce over {size} ranks gives {found.tolist()}, and should give {[size * (size - 1) / 2, size]}",
            hint="A card or the network between cards computes wrong numbers.",
        )
    say(f"ok      all-reduce  right over {size} ranks, the first one {time.monotonic() - began:.2f} s")


def _give_up(world: World, seconds: float) -> None:
    told = (
        f"error: rank {world.rank} of {world.size}: the first all-reduce has not ended within {seconds:.0f} s\n"
        "The ranks have met at the scheduler and do not reach each other: a firewall between the hosts, or another network interface.\n"
    )
    os.write(2, told.encode())
    os._exit(1)
