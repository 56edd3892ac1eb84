"""Reads off the names of a MindPet checkpoint which algorithm it is of, and which of its tensors are the optimizer's.

Names as MindPet 1.0 saves them; version 1.0.0 wrote `tk_delta_` for `mindpet_delta_`. A LoRADense that is itself the net saves
`mindpet_delta_lora_A` and `_B`. A checkpoint of the training network holds the optimizer's slots (`moment1.<parameter>`) and
scalars as well. BitFit is a way to freeze: its checkpoints hold plain parameters, without any mark.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

MARK = "mindpet_delta_"
_OLD_MARK = "tk_delta_"
UNTRAINED = "prefixtuning"
"""The algorithm whose numbers MindPet never trains."""
# MindPet's own names. The longer ones first: "adapter" is part of another.
_ALGORITHMS = ("low_rank_adapter", UNTRAINED, "ptuning2", "adapter", "lora")
_SLOTS = ("moment1", "moment2", "moments", "moment", "accum", "stat", "adam_m", "adam_v", "accu_grads")
_SCALARS = frozenset(
    [
        "learning_rate",
        "beta1_power",
        "beta2_power",
        "global_step",
        "momentum",
        "epoch_num",
        "step_num",
        "scale_sense",
        "loss_scale",
        "current_iterator_step",
        "last_overflow_iterator_step",
        "opt_step",
    ]
)
STATE = (*(f"{slot}.*" for slot in _SLOTS), *sorted(_SCALARS))
"""Patterns of what the optimizer saves beside the parameters."""
_BARE_LORA = re.compile(r"(.*mindpet_delta_lora_)([AB])")
_BIASES = ("bias", "beta")


def parameters(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Names of the tensors that are not the optimizer's."""
    kept = []
    for stored, shape in shapes.items():
        slot, _, parameter = stored.partition(".")
        # A cell may itself be called "accum": only a slot of a parameter that the file holds too is dropped.
        if not ((slot in _SLOTS and parameter in shapes) or (stored in _SCALARS and shape in ((), (1,)))):
            kept.append(stored)
    return kept


def current_name(stored: str) -> str:
    """Today's mark, and lower case for the matrices of a LoRADense that is the net itself."""
    name = stored.replace(_OLD_MARK, MARK)
    bare = _BARE_LORA.fullmatch(name)
    return bare[1] + bare[2].lower() if bare else name


def is_bias(name: str) -> bool:
    leaf = name.rpartition(".")[2]
    return leaf in _BIASES or leaf.endswith("_bias")


def lone_biases(names: Collection[str]) -> list[str]:
    """Biases of layers of which nothing else is there."""
    layers: dict[str, int] = {}
    for name in names:
        layer = name.rpartition(".")[0]
        layers[layer] = layers.get(layer, 0) + 1
    return [name for name in names if is_bias(name) and layers[name.rpartition(".")[0]] == 1]


def is_bitfit(names: Collection[str]) -> bool:
    """Biases by themselves, and else only whole layers that have one: heads trained beside them. In a whole model no bias is by itself."""
    with_bias = {name.rpartition(".")[0] for name in names if is_bias(name)}
    return bool(lone_biases(names)) and all(name.rpartition(".")[0] in with_bias for name in names)


def algorithms(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """MindPet's algorithms whose tensors the file holds; [] for a file that is none of MindPet's."""
    names = parameters(shapes)
    marked = [current_name(name).split(MARK, 1)[1] for name in names if MARK in current_name(name)]
    if not marked:
        return ["bitfit"] if is_bitfit(names) else []
    found = (next((a for a in _ALGORITHMS if name.startswith(a)), name.partition(".")[0]) for name in marked)
    return list(dict.fromkeys(found))
