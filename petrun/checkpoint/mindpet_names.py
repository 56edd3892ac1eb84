"""Recognise a MindPet checkpoint by the names of its tensors: its algorithm, and which tensors are the optimizer's.

Names as MindPet 1.0 saves them; version 1.0.0 wrote `tk_delta_` for `mindpet_delta_`. A LoRADense that is itself the net saves
`mindpet_delta_lora_A` and `_B`. A checkpoint of the training network holds the optimizer's slots (`moment1.<parameter>`) and
scalars as well. BitFit adds no parameters: its checkpoints hold plain ones, without a prefix.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from petrun.tensors.known_names import DELTA_PREFIX, OPTIMIZER_STATE

_OLD_PREFIX = "tk_delta_"
UNTRAINED = "prefixtuning"
"""The algorithm whose numbers MindPet never trains."""
# MindPet's own names. The longer ones first: "adapter" is part of another.
_ALGORITHMS = ("low_rank_adapter", UNTRAINED, "ptuning2", "adapter", "lora")
_SLOTS = frozenset(pattern.removesuffix(".*") for pattern in OPTIMIZER_STATE if pattern.endswith(".*"))
_SCALARS = frozenset(pattern for pattern in OPTIMIZER_STATE if not pattern.endswith(".*"))
_BARE_LORA = re.compile(r"(.*mindpet_delta_lora_)([AB])")
_BIASES = ("bias", "beta")


def parameters(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return the names of the tensors that are not the optimizer's."""
    kept = []
    for stored, shape in shapes.items():
        slot, _, parameter = stored.partition(".")
        # A cell may itself be called "accum": only a slot of a parameter that the file holds too is dropped.
        if not ((slot in _SLOTS and parameter in shapes) or (stored in _SCALARS and shape in ((), (1,)))):
            kept.append(stored)
    return kept


def current_name(stored: str) -> str:
    """Return a stored name as petrun spells it: today's prefix, and lower case for the matrices of a LoRADense that is the net itself."""
    name = stored.replace(_OLD_PREFIX, DELTA_PREFIX)
    bare = _BARE_LORA.fullmatch(name)
    return bare[1] + bare[2].lower() if bare else name


def is_bias(name: str) -> bool:
    leaf = name.rpartition(".")[2]
    return leaf in _BIASES or leaf.endswith("_bias")


def lone_biases(names: Collection[str]) -> list[str]:
    """Return the biases of layers that have no other tensor here."""
    layers: dict[str, int] = {}
    for name in names:
        layer = name.rpartition(".")[0]
        layers[layer] = layers.get(layer, 0) + 1
    return [name for name in names if is_bias(name) and layers[name.rpartition(".")[0]] == 1]


def is_bitfit(names: Collection[str]) -> bool:
    """Return whether these are the tensors of BitFit: biases alone, and complete layers with a bias, which are heads trained beside them.

    In the checkpoint of a model no layer has its bias alone.
    """
    with_bias = {name.rpartition(".")[0] for name in names if is_bias(name)}
    return bool(lone_biases(names)) and all(name.rpartition(".")[0] in with_bias for name in names)


def algorithms(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return MindPet's algorithms whose tensors the file holds; [] for a file that is not MindPet's."""
    names = parameters(shapes)
    marked = [current_name(name).split(DELTA_PREFIX, 1)[1] for name in names if DELTA_PREFIX in current_name(name)]
    if not marked:
        return ["bitfit"] if is_bitfit(names) else []
    found = (next((a for a in _ALGORITHMS if name.startswith(a)), name.partition(".")[0]) for name in marked)
    return list(dict.fromkeys(found))
