"""Joins the ranks of a run, checks that they reach each other, and resolves the layout of the net over them."""

from __future__ import annotations

import os

from petrun import console, kernels
from petrun.cluster.first_sum import check_first_sum
from petrun.cluster.ranks import cores_here
from petrun.cluster.world import World, join
from petrun.config.load import Resolved
from petrun.errors import ConfigError
from petrun.parallel.context import Device, split_operators
from petrun.parallel.layout import Layout
from petrun.train.stop import GRACE
from petrun.training.setup.resolve_layout import resolve_auto, resolve_run_layout


def join_ranks(device: Device) -> World:
    """Meet the other ranks of the job.

    Only the first rank prints. The ranks of one host share out its cores: they wait for each other at every step.
    """
    world = join(device.target)
    console.set_quiet(not world.first)
    if world.host_size > 1:
        kernels.set_threads(max(1, cores_here() // world.host_size))
    return world


def require_connected(world: World) -> None:
    """Sum over all ranks once. Raises SetupError where they do not reach each other, ConfigError for a process that is no rank."""
    if world.size > 1:
        check_first_sum(world, console.print)
    elif GRACE not in os.environ:
        raise ConfigError("--preflight: checks the start of a job of several ranks", hint="Give --cards N as well.")


def lay_out(resolved: Resolved, device: Device, world: World) -> tuple[Resolved, Layout]:
    """Return the settings with the choice of `--parallel auto`, and the layout, which everything compiled from now on follows.

    Raises ConfigError for a layout that the model or this device does not allow.
    """
    if device.target == "ascend":
        resolved, reasons = resolve_auto(resolved, world.size)
        for line in reasons:
            console.print(line)
    layout = resolve_run_layout(resolved.config, device.target, world.size)
    if layout.split:
        split_operators(layout, world.rank)
    return resolved, layout
