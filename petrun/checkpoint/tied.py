"""Apply a delta to matrices that two layers of a base share (tied embeddings). One rule holds for all files:

    a full tensor of the shared parameter        both layers use it, as before
    a full tensor under the other layer's name   that layer has a matrix of its own; the shared one is the first layer's alone
    LoRA or a variant on one of the layers       is added to the matrix where that layer uses it, and only there
    trained rows of the shared parameter         both layers use them

In the second and third case the two layers no longer use the same values: a merged model stores both, and peft's files name both modules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.delta_tensors import Computed
from petrun.delta import method_of_tensor
from petrun.errors import DeltaError
from petrun.models.base import StoredName, shared_matrices, untied
from petrun.tensors.known_names import DELTA_PREFIX


def owner(name: str) -> str:
    """Return the weight that a method's own tensor belongs to: layers.0.attn.q.mindpet_delta_lora_a -> layers.0.attn.q.weight."""
    return f"{f'.{name}'.partition(f'.{DELTA_PREFIX}')[0]}.weight".removeprefix(".")


def is_shared(name: str) -> bool:
    """Return whether a method's tensor holds values of a weight itself, which all layers that share the weight use."""
    method = method_of_tensor(name)
    return method is not None and method.tensors[name.rpartition(".")[2]].shared


def unties(names: Mapping[str, StoredName], tensors: Iterable[str]) -> bool:
    """Return whether a delta with these tensors gives the layers that share a matrix different values."""
    shared = shared_matrices(names)
    whole = set(names) | set(shared)
    changed = {name if name in whole else owner(name) for name in tensors if name not in names and not is_shared(name)}
    return any(own in changed or ours in changed for own, ours in shared.items())


def names_with_delta(names: Mapping[str, StoredName], tensors: Iterable[str]) -> Mapping[str, StoredName]:
    """Return the base's names in a model with this delta: with a matrix for each layer where the layers' values differ."""
    return untied(names) if unties(names, tensors) else names


def expand_shared(delta: Delta, names: Mapping[str, StoredName]) -> Delta:
    """Return the delta with a full shared matrix once for each layer that uses it, because peft's files name modules.

    Raises DeltaError for a layer with a matrix of its own and LoRA on it: peft loads that matrix into both layers of a tied model.
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
