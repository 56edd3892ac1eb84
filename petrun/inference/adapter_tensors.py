"""What a delta brings to a multi-adapter graph (see petrun.graph.multi_adapter), and the stacks of several, padded to one size.

    lora, rslora, pissa, adalora   the low-rank product of each layer, its scale inside B; a bias on B is added behind
    dora                           that, and m / ||W + s B A|| over the outputs; the bias goes by unscaled
    ia3                            scales before or after a layer
    prefix, ptuning2               keys and values for each core;   prompt, ptuning: vectors before the row
    heads trained beside any       a linear layer of the slot's own

S slots, R rank, P virtual tokens, N_kv key/value heads, D head width, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from petrun.algebra.low_rank import Product
from petrun.algebra.plain_lora import is_factor, layers
from petrun.checkpoint.delta import IA3_L, IA3_L_FF, LORA_BIAS, LORA_M, Delta
from petrun.checkpoint.virtual_names import PREFIX_TABLE, PROMPT_TABLE
from petrun.delta.compose import split_names
from petrun.errors import ConfigError, DeltaError
from petrun.graph.sites import Sites
from petrun.tensors import Array

KINDS = ("lora", "adalora", "ia3", "prefix", "ptuning2", "prompt", "ptuning")
"""Algorithms that share a graph; r_drop beside them changes nothing."""
_HINT = "What shares a graph: lora (every variant), adalora, ia3, prefix, ptuning2, prompt and ptuning. Merge any other: petrun merge."


@dataclass(kw_only=True)
class Slot:
    """One delta, path of the layer -> array, float32."""

    products: dict[str, Product] = field(default_factory=dict)
    before: dict[str, Array] = field(default_factory=dict)
    """(in,)."""
    after: dict[str, Array] = field(default_factory=dict)
    """(out,)."""
    shift: dict[str, Array] = field(default_factory=dict)
    """(out,), added behind `after`."""
    whole: dict[str, dict[str, Array]] = field(default_factory=dict)
    """{"weight": (out, in), "bias": (out,)}, either."""
    prefix: dict[str, Array] = field(default_factory=dict)
    """Core -> (2, N_kv, P, D)."""
    prompt: Array | None = None
    """(P, H)."""

    @property
    def prefix_tokens(self) -> int:
        return max((values.shape[2] for values in self.prefix.values()), default=0)

    @property
    def prompt_tokens(self) -> int:
        return 0 if self.prompt is None else int(self.prompt.shape[0])


def require_kind(delta: Delta, algo: str) -> None:
    """Raises ConfigError for an algorithm that no multi-adapter graph holds."""
    parts = [part for part in split_names(algo) if part != "r_drop"]
    for part in parts or ["r_drop"]:
        if part not in KINDS:
            raise ConfigError(
                f"{delta.path}: {part} cannot be switched in a compiled graph"
                + (f" (the delta's algorithm is {algo})" if algo != part else ""),
                hint=_HINT,
            )


def slot_of(delta: Delta, sites: Sites, base: Callable[[str], Array | None]) -> Slot:
    """A delta with the net's names, encoders of virtual tokens computed already -> its slot.

    `base`: name of a linear layer's weight or bias -> its value, None where there is none.
    Raises ConfigError for what no multi-adapter graph holds, DeltaError for what does not fit.
    """
    require_kind(delta, delta.algo)
    slot = Slot()
    if any(is_factor(name) for name in delta.tensors):
        for path, layer in layers(delta).items():
            product = Product(
                b=(layer.product.b.astype(np.float64) * layer.scale).astype(np.float32), a=layer.product.a
            )
            slot.products[path] = product
            if path in sites.tables:
                raise ConfigError(f"{delta.path}: LoRA on an embedding ({path}) cannot be switched", hint=_HINT)
            _hold(delta, path, base, product.shape)
            if f"{path}.{LORA_BIAS}" in delta.tensors:
                slot.after[path] = np.ones(product.shape[0], np.float32)
                slot.shift[path] = np.float32(layer.scale) * delta.tensors[f"{path}.{LORA_BIAS}"]
            if f"{path}.{LORA_M}" in delta.tensors:
                _add_magnitude(slot, path, delta.tensors[f"{path}.{LORA_M}"], base)
    rest: dict[str, Array] = {}
    for name in delta.tensors:
        path, _, leaf = name.rpartition(".")
        if leaf == IA3_L:
            slot.after[path] = delta.tensors[name]
            _hold(delta, path, base, (len(slot.after[path]), None))
        elif leaf == IA3_L_FF:
            slot.before[path] = delta.tensors[name]
            _hold(delta, path, base, (None, len(slot.before[path])))
        elif name.endswith(f".{PREFIX_TABLE}"):
            table = delta.tensors[name]
            split = table.reshape(len(table), 2, sites.kv_heads, sites.head_dim)
            slot.prefix[name.removesuffix(f".{PREFIX_TABLE}")] = split.transpose(1, 2, 0, 3)
        elif name.endswith(f".{PROMPT_TABLE}"):
            slot.prompt = delta.tensors[name]
        elif not is_factor(name):
            rest[name] = delta.tensors[name]
    _add_whole(slot, delta, rest, base)
    return slot


def refuse_size(delta: Delta, path: str) -> DeltaError:
    """The error for what is not at `path`, or has another size there."""
    return DeltaError(
        f"{delta.path}: does not fit this base: {path} is not there, or has another size",
        hint="Check that --base is the model the delta was trained on.",
    )


def _hold(delta: Delta, path: str, base: Callable[[str], Array | None], shape: tuple[int | None, int | None]) -> None:
    weight = base(f"{path}.weight")
    if weight is None or any(wanted not in (None, size) for wanted, size in zip(shape, weight.shape, strict=True)):
        raise refuse_size(delta, path)


def _add_magnitude(slot: Slot, path: str, magnitude: Array, base: Callable[[str], Array | None]) -> None:
    weight, bias = base(f"{path}.weight"), base(f"{path}.bias")
    assert weight is not None
    product = slot.products[path]
    # Row by row of the layer at hand: of a large one there is one copy.
    norms = np.linalg.norm(weight.astype(np.float32) + product.dense(), axis=1).astype(np.float64) + 1e-15
    ratio = magnitude.astype(np.float64) / norms
    slot.after[path] = ratio.astype(np.float32)
    if bias is not None:
        slot.shift[path] = (bias.astype(np.float64) * (1.0 - ratio)).astype(np.float32)


def _add_whole(slot: Slot, delta: Delta, rest: Mapping[str, Array], base: Callable[[str], Array | None]) -> None:
    for name, values in rest.items():
        path, _, leaf = name.rpartition(".")
        own = base(name)
        if own is None:
            raise ConfigError(f"{delta.path}: {name} is trained whole, and belongs to no linear layer", hint=_HINT)
        if own.shape != values.shape:
            raise ConfigError(
                f"{delta.path}: {name} is {list(values.shape)}, in the net {list(own.shape)}",
                hint="Deltas whose heads have other classes cannot share a graph.",
            )
        slot.whole.setdefault(path, {})[leaf] = values


def linear_stacks(slots: Sequence[Slot], base: Callable[[str], Array | None]) -> dict[str, dict[str, Array]]:
    """Path -> the stacks of MultiAdapterLinear or MultiAdapterHead, with slot 0 in front, which changes nothing. Raises ConfigError."""
    every = [Slot(), *slots]
    paths = dict.fromkeys(path for s in every for table in (s.products, s.before, s.after) for path in table)
    heads = dict.fromkeys(path for s in every for path in s.whole)
    both = [path for path in heads if path in paths]
    if both:
        raise ConfigError(f"{both[0]} is trained whole in one delta and adapted in another", hint=_HINT)
    found = {path: _linear(path, every, base) for path in paths}
    return {**found, **{path: _head(path, every, base) for path in heads}}


def _linear(path: str, every: Sequence[Slot], base: Callable[[str], Array | None]) -> dict[str, Array]:
    weight = base(f"{path}.weight")
    assert weight is not None
    wide_out, wide_in = weight.shape
    stacks: dict[str, Array] = {}
    rank = max((s.products[path].rank for s in every if path in s.products), default=0)
    if rank:
        stacks["a"] = np.zeros((len(every), rank, wide_in), np.float32)
        stacks["b"] = np.zeros((len(every), wide_out, rank), np.float32)
    if any(path in s.before for s in every):
        stacks["before"] = np.ones((len(every), wide_in), np.float32)
    if any(path in s.after for s in every):
        stacks["after"] = np.ones((len(every), wide_out), np.float32)
        stacks["shift"] = np.zeros((len(every), wide_out), np.float32)
    for i, s in enumerate(every):
        if path in s.products:
            product = s.products[path]
            stacks["a"][i, : product.rank], stacks["b"][i, :, : product.rank] = product.a, product.b
        for name, table in (("before", s.before), ("after", s.after), ("shift", s.shift)):
            if path in table:
                stacks[name][i] = table[path]
    return stacks


def _head(path: str, every: Sequence[Slot], base: Callable[[str], Array | None]) -> dict[str, Array]:
    own = {"weight": base(f"{path}.weight"), "bias": base(f"{path}.bias")}
    assert own["weight"] is not None
    bias = np.zeros(len(own["weight"]), np.float32) if own["bias"] is None else own["bias"]
    return {
        "weight": np.stack([s.whole.get(path, {}).get("weight", own["weight"]) for s in every]),
        "bias": np.stack([s.whole.get(path, {}).get("bias", bias) for s in every]),
        "replaces": np.array([path in s.whole for s in every], np.float32),
    }


@dataclass(frozen=True)
class VirtualStacks:
    """What add_virtual takes."""

    prefix: dict[str, Array | None]
    prompt: Array | None
    seen: Array
    """(S, P_prefix + P_prompt), real tokens at the end of their part, 1."""

    @property
    def tokens(self) -> int:
        return int(self.seen.shape[1])


def virtual_stacks(slots: Sequence[Slot], cores: Collection[str], hidden: int) -> VirtualStacks | None:
    """Stacks of the virtual tokens with slot 0 in front, which has none; None where no slot has any."""
    every = [Slot(), *slots]
    before = max(s.prefix_tokens for s in every)
    behind = max(s.prompt_tokens for s in every)
    if not before + behind:
        return None
    seen = np.zeros((len(every), before + behind), np.float32)
    prompt = np.zeros((len(every), behind, hidden), np.float32) if behind else None
    prefix: dict[str, Array | None] = dict.fromkeys(cores)
    if before:
        shape = next(next(iter(s.prefix.values())).shape for s in every if s.prefix)
        prefix = {path: np.zeros((len(every), *shape[:2], before, shape[3]), np.float32) for path in cores}
    for i, s in enumerate(every):
        own = s.prefix_tokens
        if own:
            seen[i, before - own : before] = 1.0
            for path, values in s.prefix.items():
                stack = prefix[path]
                assert stack is not None
                stack[i, :, :, before - own :] = values
        if s.prompt is not None and prompt is not None:
            seen[i, before + behind - s.prompt_tokens :] = 1.0
            prompt[i, behind - s.prompt_tokens :] = s.prompt
    return VirtualStacks(prefix, prompt, seen)
