"""Matrices that two layers of a base share (tied embeddings), where a delta comes in. One rule for all files:

    a whole tensor of the shared parameter       both layers use it, as they did
    a whole tensor under the other layer's name  that layer has a matrix of its own; the shared one is the first layer's alone
    LoRA and its kin on one of the layers        are added to the matrix where that layer uses it, and only there

After the last two the two layers no longer use the same values: a merged model stores both, and peft's files name both modules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.delta_tensors import Computed
from petrun.errors import DeltaError
from petrun.models.base import StoredName, shared_matrices, untied
from petrun.tensors.known_names import DELTA_PREFIX


def owner(name: str) -> str:
    """The weight that a method's own tensor belongs to: layers.0.attn.q.mindpet_delta_lora_a -> layers.0.attn.q.weight."""
    return f"{f'.{name}'.partition(f'.{DELTA_PREFIX}')[0]}.weight".removeprefix(".")


def comes_apart(names: Mapping[str, StoredName], tensors: Iterable[str]) -> bool:
    """Return whether a delta with these tensors gives the layers that share a matrix different values."""
    shared = shared_matrices(names)
    whole = set(names) | set(shared)
    changed = {name if name in whole else owner(name) for name in tensors if name not in names}
    return any(own in changed or ours in changed for own, ours in shared.items())


def names_with(names: Mapping[str, StoredName], tensors: Iterable[str]) -> Mapping[str, StoredName]:
    """The base's names as a model with this delta in it has them: with a matrix for each layer where these come apart."""
    return untied(names) if comes_apart(names, tensors) else names


def spread(delta: Delta, names: Mapping[str, StoredName]) -> Delta:
    """The delta with a whole shared matrix once for each layer that uses it, as peft's files, which go by modules, must hold it.

    Raises DeltaError for a layer with a matrix of its own and LoRA on top of it: loaded into a tied model, peft gives it to both layers.
    """
    tensors = delta.tensors
    for own, ours in shared_matrices(names).items():
        if own in tensors and ours not in tensors and own in {owner(name) for name in tensors if name != own}:
            raise DeltaError(
                f"{delta.path}: trains {own} and adapts it, apart from {ours}: peft has no form for that on a base that ties the two",
                hint="Merge it into its base instead.",
            )
        if ours in tensors and own not in tensors:
            shapes = {**delta.shapes, own: delta.shapes[ours]}
            stored = {name: ours if name == own else name for name in shapes}
            made = {name: (shape, partial(tensors.__getitem__, stored[name])) for name, shape in shapes.items()}
            delta = replace(delta, tensors=Computed(made))
            tensors = delta.tensors
    return delta
