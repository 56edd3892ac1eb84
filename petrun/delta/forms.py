"""Types with which a method describes its tensors: their shapes beside a layer, low-rank products, the part in a multi-adapter graph.

They hold only arrays and paths, so files are merged, added up and converted without a net. B, A: factors of a product; R: its rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from petrun.errors import DeltaError
from petrun.tensors import Array

Tensors = Mapping[str, Array]
"""Parameter name -> array; floating-point ones float32."""
BaseValues = Callable[[str], "Array | None"]
"""Name of a linear layer's weight or bias -> its value, float32; None where the base has none."""
_INCONSISTENT = "Its settings and its tensors do not agree."


@dataclass(frozen=True, kw_only=True)
class LayerTensor:
    """A tensor that a method adds to a layer with the weight (out, in): the number of its axes, and which have the layer's sizes."""

    axes: int
    inputs: int | None = None
    """The axis of size `in`."""
    outputs: int | None = None
    """The axis of size `out`."""
    into_bias: bool = False
    """Whether a merge adds it to the layer's bias, which the base must have."""
    shared: bool = False
    """Whether layers that share the weight share it too, as values of the weight itself."""


@dataclass(frozen=True, kw_only=True)
class LowRankUpdate:
    """A layer's update, scale * B A: b (out, R), a (R, in)."""

    b: Array
    a: Array
    scale: float = 1.0

    def scaled(self) -> LowRankUpdate:
        """Return the same update with the scale inside B, float32."""
        return LowRankUpdate(b=(self.b.astype(np.float64) * self.scale).astype(np.float32), a=self.a)


@dataclass(kw_only=True)
class AdapterTensors:
    """A delta's part of a graph that holds several (petrun.graph.multi_adapter): path of the layer -> array, float32.

    A linear layer gives ((x * before) W^T + b + x A^T B^T) * after + shift.
    """

    products: dict[str, LowRankUpdate] = field(default_factory=dict)
    """Their scale is 1."""
    before: dict[str, Array] = field(default_factory=dict)
    """(in,)."""
    after: dict[str, Array] = field(default_factory=dict)
    """(out,)."""
    shift: dict[str, Array] = field(default_factory=dict)
    """(out,), added after `after`."""
    heads: dict[str, dict[str, Array]] = field(default_factory=dict)
    """{"weight": (out, in), "bias": (out,)}, either: layers that were trained in full."""
    prefix: dict[str, Array] = field(default_factory=dict)
    """Attention core -> (2, N_kv, P, D), keys first."""
    prompt: Array | None = None
    """(P, H)."""

    @property
    def prefix_tokens(self) -> int:
        return max((values.shape[2] for values in self.prefix.values()), default=0)

    @property
    def prompt_tokens(self) -> int:
        return 0 if self.prompt is None else int(self.prompt.shape[0])


@dataclass(frozen=True)
class NotStored:
    """The reason why another tool's files have no form for a method."""

    reason: str


def layers_with(tensors: Iterable[str], leaves: Mapping[str, LayerTensor]) -> list[str]:
    """Return the paths of the layers with a tensor whose name ends in one of `leaves`, in the order of the tensors."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in tensors if name.rpartition(".")[2] in leaves))


def tensor_of(tensors: Tensors, path: str, leaf: str) -> Array:
    """Return the tensor of a layer. Raises DeltaError where it is missing."""
    name = f"{path}.{leaf}"
    if name not in tensors:
        raise DeltaError(f"lacks {name}", hint=_INCONSISTENT)
    return tensors[name]


def factors_of(tensors: Tensors, path: str, a: str, b: str, rank: int) -> LowRankUpdate:
    """Return B A of a layer. Raises DeltaError: a matrix without its partner, shapes that do not multiply at this rank."""
    update = LowRankUpdate(a=tensor_of(tensors, path, a), b=tensor_of(tensors, path, b))
    shapes = update.b.shape, update.a.shape
    if [len(shape) for shape in shapes] != [2, 2] or shapes[0][1] != shapes[1][0] or shapes[1][0] != rank:
        raise DeltaError(
            f"the matrices of {path}, {list(shapes[0])} and {list(shapes[1])}, do not multiply at rank {rank}"
        )
    return update
