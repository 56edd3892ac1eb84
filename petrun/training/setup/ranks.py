"""Joins the ranks of a run, and checks that they reach each other."""

from __future__ import annotations

import os

from petrun import console, kernels
from petrun.cluster.first_sum import check_first_sum
from petrun.cluster.ranks import cores_here
from petrun.cluster.world import World, join
from petrun.errors import ConfigError
from petrun.parallel.context import Device
from petrun.train.stop import GRACE


def join_ranks(device: Device) -> World:
    """Meet the other ranks of the job.

    Only the first rank prints. The ranks of one host share out its cores: they wait for each other at every step.
    """
    world = join(device.target)
    if not world.first:
        console.set_quiet()
    if world.host_size > 1:
        kernels.set_threads(max(1, cores_here() // world.host_size))
    return world


def require_connected(world: World) -> None:
    """Sum over all ranks once. Raises SetupError where they do not reach each other, ConfigError for a process that is no rank."""
    if world.size > 1:
        check_first_sum(world, console.print)
    elif GRACE not in os.environ:
        raise ConfigError("--preflight: checks the start of a job of several ranks", hint="Give --cards N as well.")
