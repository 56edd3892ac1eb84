"""Several methods as one: `lora+bitfit`, `lora+r_drop`. At most one owns cells; the others compose with it.

Settings keep their names (`delta.rank`, `delta.kl_weight`): the configuration of a composition is the union of its parts'.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from petrun.delta.forms import Tensors
from petrun.delta.method import ALL, Method, MethodConfig, Update
from petrun.errors import TargetError
from petrun.graph.sites import Sites
from petrun.graph.surgery import cells as net_cells
from petrun.tensors import Array
from petrun.typing import Cell

JOIN = "+"


def split_names(algo: str) -> tuple[str, ...]:
    """Split `lora + bitfit` into (lora, bitfit)."""
    return tuple(part.strip() for part in algo.split(JOIN))


@cache
def compose(parts: tuple[Method, ...]) -> Method:
    """Make one Method that does what its parts do, the owning part first. Raises ValueError: two owning parts, or one part twice."""
    names = [part.name for part in parts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{twice[0]} stands twice")
    owning = [part for part in parts if part.owning]
    if len(owning) > 1:
        raise ValueError(f"{owning[0].name} and {owning[1].name} cannot be joined: each takes the layers for itself")
    if len(parts) == 1:
        return parts[0]
    added = [part for part in parts if not part.owning and part.trains == "added"]
    if added and any(part.trains == "all" for part in parts):
        raise ValueError(f"{owning[0].name} trains all of the base, {added[0].name} a part of it")
    ordered = (*owning, *sorted((part for part in parts if not part.owning), key=lambda part: part.name))
    # Each part reads its own settings off the joint configuration, which is an instance of every part's.
    config: type[MethodConfig] = type("JointConfig", tuple(part.config for part in ordered), {})
    training = [part for part in ordered if part.trains != "nothing"] or list(ordered)
    # All other fields are those of the owning part, or of the first one.
    return replace(
        ordered[0],
        name=JOIN.join(part.name for part in ordered),
        config=config,
        trains=training[0].trains,
        attach=_Attach(ordered),
        tensors={leaf: form for part in ordered for leaf, form in part.tensors.items()},
        merge=_Merge(ordered) if all(part.merge is not None for part in ordered) else None,
        why_no_sum=_WhyNoSum(tuple(training)),
        switch=training[0].switch if len(training) == 1 else None,
        wrap_loss=_WrapLoss(ordered),
        rate=_Rate(ordered),
        fixed=tuple(leaf for part in ordered for leaf in part.fixed),
        identity=all(part.identity for part in ordered),
        needs_classes=any(part.needs_classes for part in ordered),
        owning=bool(owning),
        why_not_split=next((f"({part.name}) {part.why_not_split}" for part in ordered if part.why_not_split), ""),
    )


class _Joint:
    def __init__(self, parts: tuple[Method, ...]) -> None:
        self.parts = parts


class _Attach(_Joint):
    def __call__(self, net: Cell, config: MethodConfig, sites: Sites, seed: int) -> tuple[str, ...]:
        # A part that joins gets the net of the base: bitfit's biases are not those of the owning part's cells.
        joining, owning = ([part for part in self.parts if part.owning is kind] for kind in (False, True))
        owned = [name for part in joining for name in part.attach(net, config, sites, seed)]
        adding = [part for part in joining if part.tensors]
        added = {path: cell for path, cell in net_cells(net).items() if self._adds_to(cell, adding)} if adding else {}
        owned += [name for part in owning for name in part.attach(net, config, sites, seed)]
        if not added:
            return tuple(dict.fromkeys(owned))
        left = {id(cell) for cell in net_cells(net).values()}
        lost = [path for path, cell in added.items() if id(cell) not in left]
        if lost:
            names = [part.name for part in (*joining, *owning)]
            raise TargetError(
                f"{lost[0]} cannot be a target of {names[-1]}: its own values train beside it ({', '.join(names[:-1])})",
                hint=f"Leave it out of --target, or leave {JOIN}{names[0]} out.",
            )
        return tuple(dict.fromkeys(owned))

    @staticmethod
    def _adds_to(cell: Cell, parts: list[Method]) -> bool:
        """Return whether the cell itself holds tensors of one of the parts."""
        return any(leaf in part.tensors for part in parts for leaf in cell._params)


class _Merge(_Joint):
    def __call__(self, config: MethodConfig, tensors: Tensors) -> Update:
        updates = [part.merge(config, tensors) for part in self.parts if part.merge is not None]

        def update(name: str, value: Array, rows: slice = ALL) -> Array:
            for each in updates:
                value = each(name, value, rows)
            return value

        return update


class _WrapLoss(_Joint):
    def __call__(self, loss: Cell, net: Cell, config: MethodConfig) -> Cell:
        for part in self.parts:
            loss = part.wrap_loss(loss, net, config)
        return loss


class _Rate(_Joint):
    def __call__(self, config: MethodConfig, name: str) -> float:
        factor = 1.0
        for part in self.parts:
            factor *= part.rate(config, name)
        return factor


class _WhyNoSum(_Joint):
    def __call__(self, config: MethodConfig) -> str | None:
        return next((reason for part in self.parts if (reason := part.why_no_sum(config)) is not None), None)
