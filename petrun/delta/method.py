"""Define the record that every delta algorithm fills in: one value for each method, no base class of cells, no registry by decorator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict

from petrun.delta.forms import AdapterTensors, BaseValues, LayerTensor, LowRankUpdate, NotStored, Tensors
from petrun.graph.sites import Sites
from petrun.graph.surgery import resolve_targets
from petrun.tensors import Array
from petrun.typing import Cell, Parameter, Tensor


class MethodConfig(BaseModel):
    """Settings of one algorithm: `delta.*` on the command line. Their defaults are in the algorithm's own file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Settings: TypeAlias = Any
"""An instance of the method's own subclass of MethodConfig, or of a joint configuration, which is an instance of every part's."""
OF_THE_RUN = "of the run"
"""Annotates a setting that says how a run trains, not what the delta computes: a run that starts from a delta may change it."""


def of_the_run(config: type[MethodConfig], key: str) -> bool:
    """Return whether the setting `key` is marked OF_THE_RUN."""
    return OF_THE_RUN in config.model_fields[key].metadata


def split_commas(value: object) -> object:
    """Split `a, b` into (a, b); a list is returned unchanged."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(split_commas)]
"""A setting that lists names or patterns, on the command line with commas between them."""

ALL = slice(None)


class Update(Protocol):
    """Computes a parameter's value in a merged model."""

    def __call__(self, name: str, value: Array, rows: slice = ALL) -> Array:
        """Return the merged value, float32, of a parameter's value, float32 in (out, in) layout; the same object where nothing changes.

        The value is the base's, or where the delta trained the full parameter (a head, a bias), the delta's. rows: the rows of a matrix
        that `value` holds, as a merge passes a large matrix in blocks.
        """


class StepHook(Protocol):
    """An nn.Cell that the compiled step calls around each update. Where `finite` () bool is false, neither call may change anything."""

    def before_update(self, gradients: Sequence[Tensor], step: Tensor, finite: Tensor) -> object:
        """Called before the optimizer, with its gradients, float32 in its order; step () int32, counted from 0."""

    def after_update(self, step: Tensor, finite: Tensor) -> object:
        """Called after the optimizer."""


Encode = Callable[[str], list[int]]
"""Text -> token ids, without special tokens."""
Trains = Literal["added", "some", "all", "nothing"]
"""Tensors that it adds beside the base's; some of the base's own; every one of the base's; none at all."""


def same_loss(loss: Cell, net: Cell, config: Settings) -> Cell:
    """Return the loss unchanged, for a method that adds nothing to it."""
    return loss


def same_config(config: Settings, encode: Encode | None) -> Settings:
    """Return the settings unchanged, for a method whose settings need no tokenizer."""
    return config


def no_hook(net: Cell, config: Settings, parameters: Sequence[Parameter], total_steps: int) -> None:
    """Return None, for a method that does nothing at a step."""


def one_rate(config: Settings, name: str) -> float:
    """Return 1: every parameter trains at the run's learning rate."""
    return 1.0


def targeted_layers(net: Cell, config: Settings, sites: Sites) -> tuple[str, ...]:
    """Return the linear layers that the settings' target and exclude name, by default the family's. Raises TargetError."""
    return resolve_targets(net, sites, config.target, config.exclude)


def no_tokens(config: Settings) -> int:
    """Return 0, for a method without virtual tokens."""
    return 0


def same_values(config: Settings, tensors: Tensors) -> Update:
    """Return an update that changes nothing, for a method whose trained parameters replace the base's."""
    return lambda name, value, rows=ALL: value


def adds_up(config: Settings) -> None:
    """Return None, as there is no reason: weighted sums of the method's deltas are deltas of the method."""


def same_name(config: Settings) -> None:
    """Return None, for a delta that is the same in use as in training."""


NOT_IN_PEFT = NotStored("peft has no adapter of this kind")
NOT_IN_MINDPET = NotStored("MindPet has no algorithm of this kind")


@dataclass(frozen=True, kw_only=True)
class Method:
    """One algorithm, and everything that other packages need to know of it.

    A `loss` is an nn.Cell with `construct(denominator, targets, *inputs) -> (scalar, logits)`, the scalar being the sum over
    supervised items divided by `denominator`, so that micro-batches add up to the exact mean.
    """

    name: str
    config: type[MethodConfig]
    default_lr: float
    """Peak learning rate where the user gives none."""
    attach: Callable[[Cell, Settings, Sites, int], tuple[str, ...]]
    """(net, config, sites, seed) -> the names of the parameters the method owns: they are saved. Swaps cells; raises TargetError."""
    trains: Trains = "added"
    tensors: Mapping[str, LayerTensor] = field(default_factory=dict, hash=False)
    """Last part of the name of a tensor that belongs to one layer -> its form. Names of methods' own tensors begin with mindpet_delta_."""
    table: str = ""
    """Name of a table of virtual tokens below its attention core or embedding; '' where the method has none."""
    merge: Callable[[Settings, Tensors], Update] | None = None
    """(config, delta tensors) -> how each base tensor changes. Works on arrays, so a merge never builds the net. None: no merge."""
    low_rank: Callable[[Settings, Tensors], Iterable[tuple[str, LowRankUpdate]]] | None = None
    """(config, delta tensors) -> path of a layer, and the low-rank product that is added to its weight. None: no such form.

    Raises DeltaError, without the file's name: a matrix without its partner, shapes that contradict the settings.
    """
    why_no_sum: Callable[[Settings], str | None] = adds_up
    """(config) -> the reason, as the end of `is a NAME delta, `, why deltas of the method do not add up; None: they do."""
    switch: Callable[[Settings, Tensors, Sites, BaseValues], AdapterTensors] | None = None
    """(config, delta tensors, sites, the base's values) -> its part of a graph of several adapters. None: it cannot be switched in one."""
    used_as: Callable[[Settings], str | None] = same_name
    """(config) -> the method whose tables replace the encoder of virtual tokens in use; None: there is no encoder."""
    peft: tuple[str, ...] | NotStored = NOT_IN_PEFT
    """peft_type of the adapters that become this method; the first one is written."""
    mindpet: str | NotStored = NOT_IN_MINDPET
    """MindPet's name for the algorithm, which is part of its tensors' names."""
    layers: Callable[[Cell, Settings, Sites], tuple[str, ...]] = targeted_layers
    """(net, config, sites) -> paths of the layers that `target` and `exclude` name, where the settings have them. Raises TargetError."""
    wrap_loss: Callable[[Cell, Cell, Settings], Cell] = same_loss
    """(loss, net, config) -> loss."""
    hook: Callable[[Cell, Settings, Sequence[Parameter], int], StepHook | None] = no_hook
    """(net, config, trained parameters in the optimizer's order, total steps) -> a cell that the compiled step calls, or None."""
    rate: Callable[[Settings, str], float] = one_rate
    """(config, parameter name) -> factor on the learning rate."""
    tokens: Callable[[Settings], int] = no_tokens
    """(config) -> virtual tokens, which take positions away from the rows."""
    prepare: Callable[[Settings, Encode | None], Settings] = same_config
    """(config, tokenizer's encode or None) -> config with token ids instead of text. Raises ConfigError."""
    fixed: tuple[str, ...] = ()
    """Last parts of the names of owned parameters that are saved but never trained (masks, initial values)."""
    identity: bool = True
    """Whether the net with initial values computes the same as the base."""
    needs_classes: bool = False
    """Whether it compares distributions over classes or tokens, which a net that predicts a number does not have."""
    owning: bool = True
    """Whether it attaches cells to layers, or trains everything: a run has one such method. False: it composes with any other."""
    why_not_split: str = ""
    """The reason, after the method's name, why operators and stages cannot be split over ranks; "": they can."""

    def owns(self, name: str) -> bool:
        """Return whether a tensor is one that the method adds to a layer, or its table of virtual tokens."""
        return name.rpartition(".")[2] in self.tensors or bool(self.table and name.endswith(f".{self.table}"))
