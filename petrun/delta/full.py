"""Full fine-tuning: every parameter of the base is trained and saved. The reference row of every comparison."""

from __future__ import annotations

from petrun.delta.forms import NotStored
from petrun.delta.method import Method, MethodConfig, same_values
from petrun.graph.sites import Sites
from petrun.typing import Cell


class FullConfig(MethodConfig):
    """Full fine-tuning has no settings of its own."""


def attach(net: Cell, config: FullConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Own every floating-point parameter of the net; tied ones count once."""
    names = {p.name for p in net.get_parameters() if "Float" in str(p.dtype)}
    return tuple(sorted(names))


METHOD = Method(
    name="full",
    config=FullConfig,
    default_lr=1e-4,
    attach=attach,
    trains="all",
    merge=same_values,
    peft=NotStored("it is a model of its own: petrun merge writes one"),
    mindpet=NotStored("it is a model of its own: petrun merge writes one"),
)
