"""Full fine-tuning: every parameter of the base is trained and saved. The reference row of every comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from petrun.delta.base import Method, MethodConfig, Update
from petrun.graph.sites import Sites
from petrun.tensors import Array


class FullConfig(MethodConfig):
    """Full fine-tuning has no settings of its own."""


def attach(net: Any, config: FullConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Own every floating-point parameter of the net, tied ones once."""
    names = {p.name for p in net.get_parameters() if "Float" in str(p.dtype)}
    return tuple(sorted(names))


def fold(config: FullConfig, tensors: Mapping[str, Array]) -> Update:
    """W <- the trained W."""

    def update(name: str, value: Array) -> Array:
        trained = tensors.get(name)
        return value if trained is None else trained.astype(np.float32)

    return update


METHOD = Method(name="full", config=FullConfig, default_lr=1e-4, attach=attach, fold=fold)
