"""Attach several deltas to one net, in one compiled graph, and choose the delta of each row (petrun.graph.multi_adapter)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from mindspore import Parameter, Tensor

from petrun.checkpoint.delta import Delta
from petrun.delta.forms import AdapterTensors, BaseValues
from petrun.errors import ConfigError, DeltaError, did_you_mean
from petrun.graph.multi_adapter import adapter_indices, add_linears, add_virtual, linear_at
from petrun.graph.packed_weight import packed_of, weight_values
from petrun.graph.sites import Sites
from petrun.graph.virtual_tokens import core_paths
from petrun.inference.adapter_tensors import (
    adapter_tensors,
    linear_stacks,
    refuse_size,
    require_switchable,
    virtual_stacks,
)
from petrun.inference.blends import OFF, Blend, blended
from petrun.inference.virtual_tables import with_tables
from petrun.models.base import LoadedModel
from petrun.models.factory import is_factory
from petrun.models.families import FAMILIES, spell_families
from petrun.tensors import Array

__all__ = ["OFF", "MultiAdapter", "fixed_adapter", "open_multi_adapter"]


class MultiAdapter:
    """The deltas in the graph of a net, and which one each row of a batch uses. Adapter index 0 is the base, i the i-th delta."""

    def __init__(self, names: Sequence[str], indices: Tensor, tokens: int, fixed: bool = False) -> None:
        self.names = tuple(names)
        self.tokens = tokens
        """Positions that virtual tokens take."""
        self.fixed = fixed
        """The only delta is attached as training attaches it: the base cannot be used without it."""
        self._indices = indices
        self._selected: list[int] = [0] * indices.shape[0]

    def index(self, name: str | None) -> int:
        """Look up the adapter index of a delta; None and "off": the base. Raises ConfigError, with the known names."""
        if name is None or name == OFF:
            if self.fixed:
                raise ConfigError(
                    f"{self.names[0]} cannot be switched off: its algorithm changes the net's layers themselves",
                    hint="Start again without --delta for the base alone.",
                )
            return 0
        if name not in self.names:
            known = ", ".join(self.names) or "none"
            raise ConfigError(
                f"no delta is called {name!r}. {did_you_mean(name, self.names)}".rstrip(),
                hint=f"There are: {known}; and {OFF} for the base alone.",
            )
        return 0 if self.fixed else 1 + self.names.index(name)

    def select(self, indices: Sequence[int]) -> None:
        """Use adapter indices[b] for row b of the next batches, and the last index for further rows. Compiles nothing."""
        chosen = [*indices, *[indices[-1]] * (len(self._selected) - len(indices))]
        if len(chosen) > len(self._selected):
            raise ConfigError(f"a batch of {len(indices)} rows, and the graph was built for {len(self._selected)}")
        if chosen != self._selected:
            self._selected = chosen
            self._indices.set_data(Tensor(np.array(chosen, np.int32)))


def fixed_adapter(name: str, rows: int) -> MultiAdapter:
    """Make the MultiAdapter of a single delta that was attached as training attaches it."""
    return MultiAdapter((name,), adapter_indices(rows), 0, fixed=True)


def open_multi_adapter(
    loaded: LoadedModel, deltas: Mapping[str, Delta], rows: int, blends: Mapping[str, Blend] | None = None
) -> tuple[LoadedModel, MultiAdapter]:
    """Attach deltas to the net; none of them is in use yet.

    `deltas`: name -> delta with the net's names. `rows`: of the largest batch. `blends`: name -> weighted sum of deltas, to be used as one
    of them.
    Where deltas have virtual tokens, all rows lose as many positions as the delta with most of them takes.
    Raises ConfigError for a delta that cannot be switched, or not beside the others; DeltaError for one that does not fit.
    """
    if is_factory(loaded.family):
        raise ConfigError(
            f"--model {loaded.family}: several deltas share the graph of a {spell_families()} model, not of one of your own",
            hint="Give one delta at a time.",
        )

    def base(name: str) -> Array | None:
        # Found by the layer: a head that shares the embedding's weight has no parameter of its own name.
        path, _, leaf = name.rpartition(".")
        cell = linear_at(loaded.net, path)
        if leaf == "weight" and cell is not None and packed_of(cell) is not None:
            return weight_values(cell)
        value = getattr(cell, leaf, None) if leaf in ("weight", "bias") else None
        return value.asnumpy().astype(np.float32) if isinstance(value, Parameter) else None

    named = {name: _adapter(loaded, delta, base) for name, delta in deltas.items()}
    blends = blends or {}
    adapters = [*named.values(), *(blended(blend, named) for blend in blends.values())]
    linears = linear_stacks(adapters, base)
    indices = adapter_indices(rows)
    tokens = _add_virtual(loaded, list(deltas.values()), adapters, indices)
    add_linears(loaded.net, indices, linears)
    if loaded.max_positions is not None:
        if loaded.max_positions - tokens < 2:
            raise ConfigError(f"{tokens} virtual tokens leave no room in the model's {loaded.max_positions} positions")
        loaded = replace(loaded, max_positions=loaded.max_positions - tokens)
    return loaded, MultiAdapter((*deltas, *blends), indices, tokens)


def _adapter(loaded: LoadedModel, delta: Delta, base: BaseValues) -> AdapterTensors:
    """Convert the delta's tensors to the form of the graph. Raises DeltaError where one is missing."""
    require_switchable(delta)
    # The U-Net of a pipeline is no family of texts, and has no place for virtual tokens.
    if loaded.family in FAMILIES:
        family = FAMILIES[loaded.family].for_task(loaded.tasks[0])
        delta = with_tables(delta, family, family.parse(loaded.hf_config))
    try:
        return adapter_tensors(delta, loaded.sites, base)
    except KeyError as error:
        raise DeltaError(
            f"{delta.path}: lacks {error.args[0]}", hint="Its settings and its tensors do not agree."
        ) from error


def has_switched_tokens(sites: Sites) -> bool:
    """Return whether rows of a net can have virtual tokens of different deltas."""
    return bool(sites.positions or sites.mask_positions)


def _add_virtual(loaded: LoadedModel, deltas: list[Delta], adapters: list[AdapterTensors], indices: Tensor) -> int:
    """Add the virtual tokens of all deltas. Returns how many positions they take."""
    sites = loaded.sites
    with_tokens = [i for i, adapter in enumerate(adapters) if adapter.prefix_tokens + adapter.prompt_tokens]
    if not with_tokens:
        return 0
    first = deltas[with_tokens[0]]
    if not has_switched_tokens(sites):
        raise ConfigError(
            f"{first.path}: virtual tokens are switched in decoders only, and this is a {loaded.family} model",
            hint="Give such deltas one at a time.",
        )
    cores = core_paths(loaded.net, sites)
    for i in with_tokens:
        _require_matching_tokens(deltas[i], adapters[i], cores, sites)
    stacks = virtual_stacks(adapters, cores, sites.hidden)
    assert stacks is not None
    if sites.window and stacks.prompt is not None and stacks.tokens > stacks.prompt.shape[1]:
        raise ConfigError(
            "this model's attention has a window, and a prefix and a prompt have different positions in it",
            hint="Give either deltas of prefix and ptuning2, or deltas of prompt and ptuning.",
        )
    add_virtual(
        loaded.net,
        indices,
        sites=sites,
        prefix=stacks.prefix,
        prompt=stacks.prompt,
        seen=stacks.seen,
    )
    return stacks.tokens


def _require_matching_tokens(delta: Delta, adapter: AdapterTensors, cores: tuple[str, ...], sites: Sites) -> None:
    """Raises DeltaError where virtual tokens do not have the sizes of the net."""
    lengths = {values.shape[2] for values in adapter.prefix.values()}
    wrong_prefix = adapter.prefix and (set(adapter.prefix) != set(cores) or len(lengths) != 1)
    wrong_prompt = adapter.prompt is not None and adapter.prompt.shape[1] != sites.hidden
    if wrong_prefix or wrong_prompt:
        raise refuse_size(delta, next(iter(adapter.prefix), sites.embedding))
