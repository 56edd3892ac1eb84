"""The record every delta algorithm fills in. One value a method: no base class of cells, no registry by decorator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict

from petrun.graph.sites import Sites
from petrun.graph.surgery import resolve_targets
from petrun.tensors import Array


class MethodConfig(BaseModel):
    """Settings of one algorithm: `delta.*` on the command line. Their defaults stand in the algorithm's own file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


OF_THE_RUN = "of the run"
"""Annotates a setting that says how a run trains, not what the delta computes: one that goes on from a delta may change it."""


def of_the_run(config: type[MethodConfig], key: str) -> bool:
    """Whether the setting `key` is marked OF_THE_RUN."""
    return OF_THE_RUN in config.model_fields[key].metadata


def split_commas(value: Any) -> Any:
    """`a, b` -> (a, b); a list stays one."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(split_commas)]
"""A setting that lists names or patterns, on the command line with commas between them."""

ALL = slice(None)


class Update(Protocol):
    """What becomes of a parameter in a merge."""

    def __call__(self, name: str, value: Array, rows: slice = ALL) -> Array:
        """(parameter name, its value in float32, (out, in) layout) -> the merged value in float32; the same object where nothing changes.

        The value is the base's, or where the delta trained the whole parameter (a head, a bias), the delta's. rows: which of a matrix's
        rows `value` holds: a merge hands a large matrix over in pieces.
        """


Encode = Callable[[str], list[int]]
"""Text -> token ids, without special tokens."""


def same_loss(loss: Any, net: Any, config: MethodConfig) -> Any:
    """The method adds nothing to the loss."""
    return loss


def same_config(config: Any, encode: Encode | None) -> Any:
    """The method's settings need no tokenizer."""
    return config


def no_hook(net: Any, config: Any, parameters: Any, total_steps: int) -> None:
    """The method does nothing at a step of its own."""


def one_rate(config: Any, name: str) -> float:
    """Every parameter trains at the run's learning rate."""
    return 1.0


def targeted_layers(net: Any, config: Any, sites: Sites) -> tuple[str, ...]:
    """The linear layers that the settings' target and exclude mean, by default the family's. Raises TargetError."""
    return resolve_targets(net, sites, config.target, config.exclude)


def no_tokens(config: Any) -> int:
    """The method adds no virtual tokens."""
    return 0


def same_values(config: Any, tensors: Mapping[str, Array]) -> Update:
    """A merge that changes nothing further: the trained parameters replace the base's, and that is all."""
    return lambda name, value, rows=ALL: value


@dataclass(frozen=True, kw_only=True)
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
    merge: Callable[[Any, Mapping[str, Array]], Update] | None = None
    """(config, delta tensors) -> how each base tensor changes. Works on arrays, so a merge never builds the net. None: no merge."""
    layers: Callable[[Any, Any, Sites], tuple[str, ...]] = targeted_layers
    """(net, config, sites) -> paths of the layers that `target` and `exclude` mean, where the settings have them. Raises TargetError."""
    wrap_loss: Callable[[Any, Any, Any], Any] = same_loss
    """(loss, net, config) -> loss."""
    hook: Callable[[Any, Any, Any, int], Any] = no_hook
    """(net, config, trained parameters in the optimizer's order, total steps) -> None, or an nn.Cell that the compiled step calls
    around each update: `before_update(gradients, step, finite)`, gradients float32 in that order as the optimizer gets them, step ()
    int32 counted from 0; then, after the optimizer, `after_update(step, finite)`. Unless `finite` () bool neither may change anything."""
    rate: Callable[[Any, str], float] = one_rate
    """(config, parameter name) -> factor on the learning rate."""
    tokens: Callable[[Any], int] = no_tokens
    """(config) -> virtual tokens, which take positions away from the rows."""
    prepare: Callable[[Any, Encode | None], Any] = same_config
    """(config, tokenizer's encode or None) -> config with what had to be looked up in the tokenizer. Raises ConfigError."""
    fixed: tuple[str, ...] = ()
    """Last parts of the names of owned parameters that are saved but never trained (masks, initial values)."""
    identity: bool = True
    """With its initial values the net computes what the base computes."""
    needs_classes: bool = False
    """It compares distributions over classes or tokens, which a net that predicts a number does not have."""
    owning: bool = True
    """Attaches cells to layers, or trains everything: one such method a run. False: composes with any other."""
