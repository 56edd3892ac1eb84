"""Compute a first sum over all ranks before the base is loaded: ranks that cannot reach each other would wait in it for ever."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np

from petrun.cluster.world import World
from petrun.errors import SetupError
from petrun.train.stop import stop_request

_SECONDS = 180.0
"""The time limit on the CPU. On Ascend the cards are linked in this sum, which may take HCCL_CONNECT_TIMEOUT more."""


def check_first_sum(world: World, show: Callable[[str], None]) -> None:
    """Check a sum to which every rank adds its number and one. Raises SetupError where the sum is wrong; ends the process where it does not
    arrive in time.
    """
    linking = os.environ.get("HCCL_CONNECT_TIMEOUT", "")
    seconds = _SECONDS + (float(linking) if linking.isdecimal() and os.environ.get("ASCEND_HOME_PATH") else 0.0)
    overdue = (
        f"rank {world.rank} of {world.size}: the first all-reduce has not ended within {seconds:.0f} s\n"
        "The ranks have met at the scheduler and do not reach each other: a firewall between the hosts, or another network interface."
    )
    began = time.monotonic()
    with stop_request().within(seconds, overdue):
        found = world.summed(np.array([world.rank, 1.0], np.float32))
    size = world.size
    right = [size * (size - 1) / 2, float(size)]
    if not np.allclose(found, right, rtol=1e-5):
        raise SetupError(
            f"an all-reduce over {size} ranks gives {found.tolist()}, and should give {right}",
            hint="A card or the network between cards computes wrong numbers.",
        )
    show(f"ok      all-reduce  right over {size} ranks, the first one {time.monotonic() - began:.2f} s")
