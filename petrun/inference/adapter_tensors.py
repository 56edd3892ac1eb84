"""Convert deltas to the tensors of a graph that holds several (see petrun.graph.multi_adapter), in stacks padded to one size.

The record of each method defines its part (`Method.switch`); layers that were trained in full beside it, such as heads, get a linear
layer of their own. Adapter 0 is the base: it changes nothing.

S adapters, R rank, P virtual tokens, N_kv key/value heads, D head width, H hidden.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.delta_method import method_of
from petrun.delta import names_where, parts_of
from petrun.delta.forms import AdapterTensors, BaseValues
from petrun.errors import ConfigError, DeltaError
from petrun.graph.sites import Sites
from petrun.tensors import Array


def _hint() -> str:
    return (
        f"What shares a graph: {names_where(lambda method: method.switch is not None)}. Merge any other: petrun merge."
    )


def require_switchable(delta: Delta) -> None:
    """Raises ConfigError for an algorithm that cannot share a graph with others."""
    parts = parts_of(delta.algo)
    for part in [part for part in parts if part.trains != "nothing"] or parts:
        if part.switch is None:
            raise ConfigError(
                f"{delta.path}: {part.name} cannot be switched in a compiled graph"
                + (f" (the delta's algorithm is {delta.algo})" if delta.algo != part.name else ""),
                hint=_hint(),
            )


def adapter_tensors(delta: Delta, sites: Sites, base: BaseValues) -> AdapterTensors:
    """Convert a delta with the net's names, whose encoders of virtual tokens are computed already, to tensors of the graph.

    Raises ConfigError for a delta that cannot be switched, DeltaError for one that does not fit.
    """
    require_switchable(delta)
    method, config = method_of(delta.algo, delta.config, delta.path)
    assert method.switch is not None
    found = method.switch(config, delta.tensors, sites, base)
    for path in found.products:
        if path in sites.tables:
            raise ConfigError(f"{delta.path}: LoRA on an embedding ({path}) cannot be switched", hint=_hint())
    for path, product in found.products.items():
        _require_shape(delta, path, base, (len(product.b), product.a.shape[1]))
    for path, scale in found.after.items():
        _require_shape(delta, path, base, (len(scale), None))
    for path, scale in found.before.items():
        _require_shape(delta, path, base, (None, len(scale)))
    _add_heads(found, delta, [name for name in delta.tensors if not method.owns(name)], base)
    return found


def refuse_size(delta: Delta, path: str) -> DeltaError:
    """Return the error for a layer that is not at `path`, or has another size."""
    return DeltaError(
        f"{delta.path}: does not fit this base: {path} is not there, or has another size",
        hint="Check that --base is the model the delta was trained on.",
    )


def _require_shape(delta: Delta, path: str, base: BaseValues, shape: tuple[int | None, int | None]) -> None:
    weight = base(f"{path}.weight")
    if weight is None or any(wanted not in (None, size) for wanted, size in zip(shape, weight.shape, strict=True)):
        raise refuse_size(delta, path)


def _add_heads(found: AdapterTensors, delta: Delta, names: Sequence[str], base: BaseValues) -> None:
    for name in names:
        path, _, leaf = name.rpartition(".")
        own, values = base(name), delta.tensors[name]
        if own is None:
            raise ConfigError(f"{delta.path}: {name} is trained whole, and belongs to no linear layer", hint=_hint())
        if own.shape != values.shape:
            raise ConfigError(
                f"{delta.path}: {name} is {list(values.shape)}, in the net {list(own.shape)}",
                hint="Deltas whose heads have other classes cannot share a graph.",
            )
        found.heads.setdefault(path, {})[leaf] = values


def linear_stacks(adapters: Sequence[AdapterTensors], base: BaseValues) -> dict[str, dict[str, Array]]:
    """Return path -> the stacks of MultiAdapterLinear or MultiAdapterHead, with adapter 0 first, which changes nothing. Raises
    ConfigError.
    """
    every = [AdapterTensors(), *adapters]
    paths = dict.fromkeys(path for s in every for table in (s.products, s.before, s.after) for path in table)
    heads = dict.fromkeys(path for s in every for path in s.heads)
    both = [path for path in heads if path in paths]
    if both:
        raise ConfigError(f"{both[0]} is trained whole in one delta and adapted in another", hint=_hint())
    found = {path: _linear(path, every, base) for path in paths}
    return {**found, **{path: _head(path, every, base) for path in heads}}


def _linear(path: str, every: Sequence[AdapterTensors], base: BaseValues) -> dict[str, Array]:
    weight = base(f"{path}.weight")
    assert weight is not None
    wide_out, wide_in = weight.shape
    stacks: dict[str, Array] = {}
    rank = max((len(s.products[path].a) for s in every if path in s.products), default=0)
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
            own = len(product.a)
            stacks["a"][i, :own], stacks["b"][i, :, :own] = product.a, product.b
        for name, table in (("before", s.before), ("after", s.after), ("shift", s.shift)):
            if path in table:
                stacks[name][i] = table[path]
    return stacks


def _head(path: str, every: Sequence[AdapterTensors], base: BaseValues) -> dict[str, Array]:
    own = {"weight": base(f"{path}.weight"), "bias": base(f"{path}.bias")}
    assert own["weight"] is not None
    bias = np.zeros(len(own["weight"]), np.float32) if own["bias"] is None else own["bias"]
    return {
        "weight": np.stack([s.heads.get(path, {}).get("weight", own["weight"]) for s in every]),
        "bias": np.stack([s.heads.get(path, {}).get("bias", bias) for s in every]),
        "replaces": np.array([path in s.heads for s in every], np.float32),
    }


@dataclass(frozen=True)
class VirtualStacks:
    """Arguments of add_virtual."""

    prefix: dict[str, Array | None]
    prompt: Array | None
    seen: Array
    """(S, P_prefix + P_prompt): 1 for a virtual token, at the end of its part; 0 for padding."""

    @property
    def tokens(self) -> int:
        return int(self.seen.shape[1])


def virtual_stacks(adapters: Sequence[AdapterTensors], cores: Collection[str], hidden: int) -> VirtualStacks | None:
    """Return the stacks of the virtual tokens, with adapter 0 first, which has none; None where no adapter has any."""
    every = [AdapterTensors(), *adapters]
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
