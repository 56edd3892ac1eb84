"""The record every delta algorithm fills in. One value a method: no base class of cells, no registry by decorator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from petrun.graph.sites import Sites
from petrun.tensors import Array


class MethodConfig(BaseModel):
    """Settings of one algorithm: `delta.*` on the command line. Their defaults stand in the algorithm's own file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Update = Callable[[str, Array], Array]
"""(parameter name, its base value in float32, (out, in) layout) -> the merged value in float32."""


def same_loss(loss: Any, net: Any, config: MethodConfig) -> Any:
    """The method adds nothing to the loss."""
    return loss


@dataclass(frozen=True)
class Method:
    """One algorithm.

    A `loss` is an nn.Cell with `construct(denominator, targets, *inputs) -> (scalar, logits)`, the scalar being the sum over
    supervised items divided by `denominator`, so that micro-batches add up to the exact mean.
    """

    name: str
    config: type[MethodConfig]
    default_lr: float
    """Peak learning rate where the user gives none."""
    attach: Callable[[Any, Any, Sites, int], tuple[str, ...]]
    """(net, config, sites, seed) -> the names of the parameters the method owns: they are saved. Swaps cells; raises TargetError."""
    fold: Callable[[Any, Mapping[str, Array]], Update] | None = None
    """(config, delta tensors) -> how each base tensor changes. Works on arrays, so a merge never builds the net. None: no merge."""
    wrap_loss: Callable[[Any, Any, Any], Any] = same_loss
    after_grad: Callable[..., None] | None = None
    owning: bool = True
    """Replaces cells or trains base tensors; False: composes with any other (R-Drop)."""
