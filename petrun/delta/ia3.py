"""(IA)^3: learned scales on keys, values and the feed-forward's inner activations.

    y = act((x W^T + b) * l)           keys and values, l (out,)
    y = act((x * l_ff) W^T + b)        the feed-forward's projection back to H, l_ff (in,)

Source: Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning", arXiv 2205.05638,
section 3.3. As in peft the bias is scaled too, and where a model computes queries, keys and values in one layer (GPT-2's c_attn), the
full layer is scaled, queries included. Scales start at 1, so the net is bit-exact the base at first. They are multiplied in float32:
near 1, bfloat16 has steps of 1/128.

The two kinds have names of their own, because the shape of a square layer's scale does not show its side, and merging has only arrays.
"""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops
from pydantic import Field

from petrun.delta.dense import BaseDense, TargetConfig, adopt, shard_base
from petrun.delta.forms import AdapterTensors, BaseValues, LayerTensor, Tensors
from petrun.delta.method import ALL, Method, Names, Update
from petrun.errors import TargetError
from petrun.graph.packed_weight import compute_dtype_of
from petrun.graph.sites import Sites
from petrun.graph.surgery import resolve_targets, swap
from petrun.kernels import ScaleColumns
from petrun.kernels.named_activations import shard_activation
from petrun.tensors import Array
from petrun.typing import Cell, DType

IA3_L = "mindpet_delta_ia3_l"
IA3_L_FF = "mindpet_delta_ia3_l_ff"
_OUTPUT_ROLES = (("k", "v"), ("qkv",))
_INPUT_ROLE = "down"


class Ia3Config(TargetConfig):
    """Settings of (IA)^3."""

    target: Names | None = Field(
        None,
        description="roles, layer names, globs over full paths, or all-linear; default: k and v (qkv, whole, where they are one) and down",
    )
    feedforward: Names | None = Field(
        None, description="which of the targets are scaled at their input; default: the role down"
    )


class IA3Dense(BaseDense):
    """nn.Dense with a learned scale on its output, or on its input.

    Inputs: x (..., in), at least 2 axes, any float dtype. Returns (..., out) in the dtype of x.
    Owns: mindpet_delta_ia3_l (out,) or mindpet_delta_ia3_l_ff (in,), float32, ones.
    """

    def __init__(
        self, in_channels: int, out_channels: int, feedforward: bool, compute_dtype: DType, **kwargs: object
    ) -> None:
        super().__init__(in_channels, out_channels, **kwargs)
        self.feedforward = feedforward
        self.compute_dtype = compute_dtype
        if feedforward:
            self.mindpet_delta_ia3_l_ff = _ones(in_channels, IA3_L_FF)
        else:
            self.mindpet_delta_ia3_l = _ones(out_channels, IA3_L)
        self.cast = ops.Cast()
        self.scale = ScaleColumns()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """`column`: outputs over tp ranks, and a scale of them; `row`: inputs, and a scale of them. The other scale is not sharded."""
        outer, inner = (tp if how == "column" else 1), (tp if how == "row" else 1)
        shard_base(self, ((dp, inner), (outer, inner)), ((dp, outer), (outer,)))
        cut = inner if self.feedforward else outer
        self.scale.split(((dp, cut), (cut,)))
        shard_activation("IA3Dense", self.activation, ((dp, outer),))

    def construct(self, x: Tensor) -> Tensor:
        """Compute (..., in) -> (..., out), dtype kept."""
        shape = self.shape_op(x)
        rows = self.cast(self.reshape(x, (-1, shape[-1])), self.compute_dtype)
        if self.feedforward:
            rows = self.cast(self.scale(self.cast(rows, ms.float32), self.mindpet_delta_ia3_l_ff), self.compute_dtype)
        y = self.base_product(rows)
        if self.has_bias:
            y = self.bias_add(y, self.cast(self.bias, self.compute_dtype))
        if not self.feedforward:
            y = self.cast(self.scale(self.cast(y, ms.float32), self.mindpet_delta_ia3_l), self.compute_dtype)
        if self.activation_flag:
            y = self.activation(y)
        return self.cast(self.reshape(y, (*shape[:-1], self.out_channels)), x.dtype)


def _ones(width: int, name: str) -> Parameter:
    return Parameter(Tensor(np.ones(width, np.float32)), name=name)


def wrap_dense(dense: Cell, feedforward: bool) -> Cell:
    """Make an IA3Dense around an existing nn.Dense, whose parameters are kept unchanged."""
    cell = IA3Dense(
        dense.in_channels,
        dense.out_channels,
        feedforward,
        compute_dtype_of(dense),
        weight_init="zeros",
        bias_init="zeros",
        has_bias=dense.has_bias,
        activation=dense.activation,
        dtype=compute_dtype_of(dense),
    )
    return adopt(cell, dense)


def layer_paths(net: Cell, config: Ia3Config, sites: Sites) -> tuple[str, ...]:
    """Return the paths of the scaled layers. Raises TargetError."""
    return resolve_targets(
        net, sites, _default_roles(sites) if config.target is None else config.target, config.exclude
    )


def _default_roles(sites: Sites) -> tuple[str, ...]:
    found = next((roles for roles in _OUTPUT_ROLES if all(role in sites.linears for role in roles)), ())
    roles = (*found, *(role for role in (_INPUT_ROLE,) if role in sites.linears))
    if not roles:
        raise TargetError(
            "the model does not say which layers compute keys, values and the feed-forward's output, which ia3 scales by default",
            hint="Name layers with --target, and those scaled at their input with --set delta.feedforward='[...]'.",
        )
    return roles


def feedforward_paths(net: Cell, sites: Sites, config: Ia3Config, paths: tuple[str, ...]) -> frozenset[str]:
    """Return those of `paths` that are scaled at their input. Raises TargetError for a pattern that names none of them."""
    if config.feedforward is None:
        named = resolve_targets(net, sites, (_INPUT_ROLE,)) if _INPUT_ROLE in sites.linears else ()
        return frozenset(named) & frozenset(paths)
    chosen: set[str] = set()
    problems = []
    for pattern in config.feedforward:
        hits = set(resolve_targets(net, sites, (pattern,))) & set(paths)
        if not hits:
            problems.append(f"delta.feedforward: {pattern} names none of the layers that ia3 scales")
        chosen |= hits
    if problems:
        raise TargetError(
            "\n".join(problems), hint=f"It scales {len(paths)} layers, such as {paths[0]} and {paths[-1]}."
        )
    return frozenset(chosen)


def attach(net: Cell, config: Ia3Config, sites: Sites, seed: int) -> tuple[str, ...]:
    """Scale every targeted nn.Dense. Returns the names of all scales. Raises TargetError."""
    paths = layer_paths(net, config, sites)
    inner = feedforward_paths(net, sites, config, paths)

    def builder(path: str) -> Callable[[Cell], Cell]:
        return lambda dense: wrap_dense(dense, path in inner)

    return swap(net, {path: builder(path) for path in paths})


def merge(config: Ia3Config, tensors: Tensors) -> Update:
    """Return the update W <- diag(l) W and b <- l * b, or W <- W diag(l_ff), in float32."""

    def update(name: str, value: Array, rows: slice = ALL) -> Array:
        path, _, leaf = name.rpartition(".")
        outer, inner = tensors.get(f"{path}.{IA3_L}"), tensors.get(f"{path}.{IA3_L_FF}")
        if outer is not None and leaf in ("weight", "bias"):
            scale = outer[rows].astype(np.float32)
            merged: Array = value * (scale[:, None] if leaf == "weight" else scale)
            return merged
        if inner is not None and leaf == "weight":
            columns: Array = value * inner.astype(np.float32)[None, :]
            return columns
        return value

    return update


def why_no_sum(config: Ia3Config) -> str:
    """Return why scales do not add up: a product of scales is not their sum."""
    return "which multiplies what a layer gives: factors do not add up"


def switch(config: Ia3Config, tensors: Tensors, sites: Sites, base: BaseValues) -> AdapterTensors:
    """Return the scales, before or after their layer, for a multi-adapter graph."""
    found = AdapterTensors()
    for name in tensors:
        path, _, leaf = name.rpartition(".")
        if leaf in _TENSORS:
            (found.after if leaf == IA3_L else found.before)[path] = tensors[name]
    return found


_TENSORS = {IA3_L: LayerTensor(axes=1, outputs=0), IA3_L_FF: LayerTensor(axes=1, inputs=0)}

METHOD = Method(
    name="ia3",
    config=Ia3Config,
    default_lr=5e-2,
    attach=attach,
    tensors=_TENSORS,
    merge=merge,
    why_no_sum=why_no_sum,
    switch=switch,
    peft=("IA3",),
    layers=layer_paths,
)
