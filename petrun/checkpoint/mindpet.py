"""MindPet checkpoints of deltas: LoRA matrices under MindPet's names, with the optimizer's state beside
them, without alpha.

Names as MindPet 1.0 saves them: `<path>.mindpet_delta_lora_a` and `_b`; a LoRADense that is itself the net
saves `mindpet_delta_lora_A` and `_B`; version 1.0.0 wrote `tk_delta_` for `mindpet_delta_`. A checkpoint of
the training network holds the optimizer's slots (`moment1.<parameter>`) and scalars as well.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from petrun.checkpoint.delta import LORA_A, LORA_B, Delta
from petrun.checkpoint.lazy import LazyTensors
from petrun.errors import DeltaError

_MARK = "mindpet_delta_"
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


def from_mindpet(delta: Delta, alpha: float | None) -> Delta:
    """A MindPet checkpoint as read -> the same delta as algo "lora": rank from A's shape, alpha as given.

    Tensors that are neither LoRA matrices nor optimizer state are parameters that were trained beside them
    (a head), and stay.
    Raises DeltaError: no alpha, another algorithm, a matrix without its partner, shapes that do not
    multiply, NaN or infinity.
    """
    place = str(delta.path)
    found = _house_names(delta)
    paths = sorted(
        {name.removesuffix(leaf).removesuffix(".") for name in found for leaf in (LORA_A, LORA_B) if _is(name, leaf)}
    )
    _refuse_others(place, found)
    ranks = _ranks(place, {ours: delta.shapes[stored] for ours, stored in found.items()}, paths)
    if alpha is None:
        raise DeltaError(
            f"{place}: MindPet's checkpoints do not hold alpha",
            hint="Give the one it was trained with: --alpha.",
        )
    if isinstance(alpha, bool) or not math.isfinite(alpha) or alpha == 0:
        raise DeltaError(f"{place}: alpha must be a number other than 0, not {alpha}")
    rank = Counter(ranks.values()).most_common(1)[0][0]
    assert isinstance(delta.tensors, LazyTensors)
    tensors = delta.tensors.renamed(found)
    config = {
        "rank": rank,
        "alpha": float(alpha),
        "variant": "lora",
        "target": paths,
        "rank_pattern": {path: r for path, r in ranks.items() if r != rank},
        "alpha_pattern": {},
    }
    return replace(delta, tensors=tensors, algo="lora", config=config, digest=tensors.checked_digest())


def _is(name: str, leaf: str) -> bool:
    return name == leaf or name.endswith("." + leaf)


def _house_names(delta: Delta) -> dict[str, str]:
    """Name in the net -> name in the file, without the optimizer's tensors."""
    shapes = delta.shapes
    found: dict[str, str] = {}
    for stored in delta.tensors:
        slot, _, parameter = stored.partition(".")
        # A cell may itself be called "accum": only a slot of a parameter that the file holds too is dropped.
        if (slot in _SLOTS and parameter in delta.tensors) or (stored in _SCALARS and shapes[stored] in ((), (1,))):
            continue
        path, dot, leaf = stored.rpartition(".")
        name = stored.replace("tk_delta_", _MARK)
        if leaf.replace("tk_delta_", _MARK) in ("mindpet_delta_lora_A", "mindpet_delta_lora_B"):
            name = path.replace("tk_delta_", _MARK) + dot + leaf.replace("tk_delta_", _MARK).lower()
        if name in found:
            raise DeltaError(f"{delta.path}: {stored} and {found[name]} are the same parameter")
        found[name] = stored
    return found


def _refuse_others(place: str, found: Mapping[str, str]) -> None:
    others = sorted(
        stored for name, stored in found.items() if _MARK in name and not _is(name, LORA_A) and not _is(name, LORA_B)
    )
    if others:
        algorithm = others[0].replace("tk_delta_", _MARK).split(_MARK, 1)[1].partition("_")[0].partition(".")[0]
        raise DeltaError(
            f"{place}: is a MindPet {algorithm} delta ({others[0]}), which is not supported",
            hint="petrun reads MindPet's LoRA checkpoints.",
        )


def _ranks(place: str, shapes: Mapping[str, tuple[int, ...]], paths: list[str]) -> dict[str, int]:
    ranks = {}
    for path in paths:
        start = f"{path}." if path else ""
        a, b = shapes.get(start + LORA_A), shapes.get(start + LORA_B)
        shown = path or "the net itself"
        if a is None or b is None:
            raise DeltaError(f"{place}: {shown} has only one of the two LoRA matrices", hint="The file is incomplete.")
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            raise DeltaError(f"{place}: the LoRA matrices of {shown}, {list(a)} and {list(b)}, do not multiply")
        ranks[path] = a[0]
    return ranks
