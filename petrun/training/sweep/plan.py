"""Resolve the settings of every run of a sweep before the first step of any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from petrun import console
from petrun.assets import default_recipe
from petrun.config.commands.train import SweepSettings
from petrun.config.load import load_run_config
from petrun.config.resolved import Resolved
from petrun.errors import ConfigError
from petrun.parallel.context import Device
from petrun.training.setup.memory_check import check_memory
from petrun.training.setup.resolve import ResolvedRun, resolve
from petrun.training.setup.starting_delta import read_start
from petrun.training.sweep.members import Member
from petrun.training.sweep.shared_graph import graph_of


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run of the sweep with its settings resolved."""

    member: Member
    folder: Path
    resolved: ResolvedRun
    graph: str
    """As `graph_of` has it: runs with the same text share a graph."""


def plan_runs(settings: SweepSettings, members: Sequence[Member], folder: Path, device: Device) -> list[PlannedRun]:
    """Resolve the settings of every run, those that share a graph one after another, with the rows of one of them in memory.

    Raises ConfigError and the errors of data and deltas.
    """
    found: list[PlannedRun] = []
    first: dict[str, ResolvedRun] = {}
    given: list[tuple[Member, Resolved]] = []
    for member in members:
        place = folder / member.name
        flags = {**settings.flags, "out.dir": ("--out", str(place))}
        given.append(
            (
                member,
                load_run_config(settings.recipe, flags, (*settings.sets, *member.sets), embedded=default_recipe()),
            )
        )
    _require_different(given)
    for member, one in given:
        resolved = resolve(one, read_start(one), device, 1)
        graph = graph_of(resolved.config)
        if graph in first:
            resolved = replace(resolved, sources=first[graph].sources)
        else:
            memory = check_memory(resolved, 1)
            if not first:
                console.tell(f"memory  {memory}")
            first[graph] = resolved
        found.append(PlannedRun(member=member, folder=folder / member.name, resolved=resolved, graph=graph))
    order = list(first)
    return sorted(found, key=lambda one: order.index(one.graph))


def _require_different(given: list[tuple[Member, Resolved]]) -> None:
    seen: dict[str, Member] = {}
    for member, one in given:
        text = one.config.model_copy(update={"out": None}).model_dump_json()
        if text in seen:
            raise ConfigError(
                f"--over: {seen[text].name} and {member.name} are the same run", hint="Give each value once."
            )
        seen[text] = member
