"""Compare the steps of all ranks with those of one: a report, and the first layer that parts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from petrun.console import columns
from petrun.errors import SetupError
from petrun.parallel.layout import Layout
from petrun.rehearsal.compute import PRECISIONS, ComputedStep, Difference

_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Parting:
    """Holds one figure that differs by more than the tolerance."""

    step: int
    what: str
    layer: str
    rank: int | None
    size: float

    def __str__(self) -> str:
        rank = f" on rank {self.rank}" if self.rank is not None else ""
        return f"step {self.step + 1}, {self.layer}: {self.what}{rank} differs by {self.size:.1e}"


def partings(steps: Sequence[ComputedStep], tolerance: float) -> list[Parting]:
    """Return all that differs, step by step: layers in the net's order, each with its largest difference, before loss and norm.

    After the first step that differs nothing more is told: all later ones have other moments.
    """
    for number, step in enumerate(steps):
        found = [
            Parting(step=number, what=what, layer=layer_of(d.name), rank=d.rank, size=d.size)
            for what, differences in (("a gradient", step.gradients), ("an updated value", step.values))
            for d in _worst(differences)
            if not d.size <= tolerance
        ]
        for what, value, expected in (
            ("the loss", step.loss, step.expected_loss),
            ("the gradient norm", step.norm, step.expected_norm),
        ):
            size = abs(value - expected) / max(abs(expected), 1e-12)
            if not size <= tolerance:
                found.append(Parting(step=number, what=what, layer="the step", rank=None, size=size))
        if found:
            return found
    return []


def layer_of(name: str) -> str:
    """Return the path of the cell that owns a parameter."""
    return re.sub(r"\.mindpet_delta.*|\.[^.]*$", "", name)


def _worst(differences: Sequence[Difference]) -> Iterator[Difference]:
    """Yield the largest difference of each layer."""
    found: dict[str, Difference] = {}
    for d in differences:
        layer = layer_of(d.name)
        if layer not in found or not d.size <= found[layer].size:
            found[layer] = d
    yield from found.values()


def computed_report(layout: Layout, dtype: str, steps: Sequence[ComputedStep], seconds: float) -> str:
    """Return the figures of each step as text. `seconds`: what computing all of them took."""
    rows: list[tuple[str, ...]] = [("step", "loss", "one rank", "gradient norm", "one rank", "gradients", "values")]
    for number, step in enumerate(steps):
        rows.append(
            (
                str(number + 1),
                *(f"{value:.6f}" for value in (step.loss, step.expected_loss, step.norm, step.expected_norm)),
                *(f"{max(d.size for d in found):.1e}" for found in (step.gradients, step.values)),
            )
        )
    measure = (
        "root mean square of the difference" if PRECISIONS[dtype].half else "largest difference over the largest value"
    )
    head = (
        f"computed   {layout} on {layout.world} ranks in {dtype}, beside one rank on the CPU in float32; gradients and values: {measure}, "
        "of one parameter"
    )
    return f"{head}\n{columns(rows)}\ntime       {seconds:.1f} s for {len(steps)} steps of all ranks"


def require_equal(layout: Layout, dtype: str, steps: Sequence[ComputedStep]) -> None:
    """Raise SetupError where any figure differs by more than the tolerance, naming the layers."""
    tolerance = PRECISIONS[dtype].tolerance
    found = partings(steps, tolerance)
    if found:
        more = [f"... and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        lines = "\n  ".join([*map(str, found[:_SHOWN]), *more])
        raise SetupError(
            f"--parallel {layout} computes other numbers than one rank (tolerance {tolerance:g}):\n  {lines}",
            hint="Do not train with this layout: use another, and report the command.",
        )
