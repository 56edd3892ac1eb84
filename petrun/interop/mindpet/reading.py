"""Read MindPet checkpoints: rename their tensors, and derive the algorithm's settings from names and shapes.

Tensors that belong neither to a delta nor to the optimizer are parameters that were trained beside it (a head), and stay.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from petrun.checkpoint.delta import Delta
from petrun.checkpoint.delta_tensors import LazyTensors, arrays_digest, refuse_nonfinite
from petrun.checkpoint.mindpet_names import UNTRAINED, algorithms, current_name, lone_biases, parameters
from petrun.checkpoint.virtual_names import prefix_tables
from petrun.delta import METHODS
from petrun.delta.lora import LORA_A, LORA_B
from petrun.errors import DeltaError
from petrun.graph.sites import Sites
from petrun.interop.mindpet.adapter import Shapes, adapter_settings, low_rank_adapter_settings
from petrun.tensors import Array
from petrun.tensors.known_names import DELTA_PREFIX
from petrun.typing import JsonObject

_PTUNING2 = DELTA_PREFIX + "ptuning2_"
_TABLE = "embedding.embedding_table"


def from_mindpet(delta: Delta, alpha: float | None, sites: Sites | None = None) -> Delta:
    """Convert a MindPet checkpoint to a delta in the net's names, with its algo and settings.

    `alpha`: LoRA's, which no checkpoint holds; `sites`: the model's, for virtual tokens.
    Raises DeltaError: alpha missing or not applicable, several algorithms in one file, a prefix that was never trained, a tensor without
    its partner, shapes that do not go together, NaN or infinity.
    """
    path = str(delta.path)
    found = _own_names(delta)
    algo = mindpet_algorithm(delta)
    codec = CODECS[_stored_algorithm(delta)]
    if alpha is not None and not codec.has_alpha:
        raise DeltaError(f"{path}: is a MindPet {algo} delta, which has no alpha", hint="Leave --alpha out.")
    if codec.settings is None:
        assert codec.convert is not None
        return codec.convert(replace(delta, algo=algo), found, sites)
    shapes = {ours: delta.shapes[stored] for ours, stored in found.items()}
    return _renamed(delta, found, algo, codec.settings(path, shapes, alpha))


def mindpet_algorithm(delta: Delta) -> str:
    """Return petrun's name for the algorithm of a MindPet checkpoint. Raises DeltaError where it cannot be read."""
    path, stored = str(delta.path), _stored_algorithm(delta)
    if stored == UNTRAINED:
        raise DeltaError(
            f"{path}: is a MindPet prefix delta, whose numbers were never trained: MindPet computes keys and values when the layer is "
            "built, so no gradient reaches them, and its values are its keys",
            hint="Train again with --algo prefix or --algo ptuning2.",
        )
    names = [name for name, method in METHODS.items() if method.mindpet == stored]
    if not names:
        raise DeltaError(
            f"{path}: is a MindPet {stored} delta, which is not supported",
            hint=f"petrun reads MindPet's checkpoints of these algorithms: {', '.join(CODECS)}.",
        )
    return names[0]


def mindpet_tokens(delta: Delta) -> int:
    """Return how many virtual tokens a MindPet checkpoint holds."""
    return max(
        (shape[0] for name, shape in delta.shapes.items() if current_name(name).endswith(_PTUNING2 + _TABLE)), default=0
    )


def _stored_algorithm(delta: Delta) -> str:
    """Return MindPet's own name for the algorithm. Raises DeltaError for the tensors of several."""
    several = algorithms(delta.shapes)
    if len(several) > 1:
        raise DeltaError(
            f"{delta.path}: holds the tensors of several MindPet algorithms: {', '.join(several)}",
            hint="petrun reads checkpoints of one.",
        )
    (algorithm,) = several
    return algorithm


def _renamed(delta: Delta, found: Mapping[str, str], algo: str, config: JsonObject) -> Delta:
    assert isinstance(delta.tensors, LazyTensors)
    tensors = delta.tensors.renamed(found)
    return replace(delta, tensors=tensors, algo=algo, config=config, digest=tensors.checked_digest())


def _own_names(delta: Delta) -> dict[str, str]:
    """Return name in the net -> name in the file, without the optimizer's tensors."""
    found: dict[str, str] = {}
    for stored in parameters(delta.shapes):
        name = current_name(stored)
        if name in found:
            raise DeltaError(f"{delta.path}: {stored} and {found[name]} are the same parameter")
        found[name] = stored
    return found


def _lora_settings(source: str, shapes: Shapes, alpha: float | None) -> JsonObject:
    paths = sorted(
        {name.removesuffix(leaf).removesuffix(".") for name in shapes for leaf in (LORA_A, LORA_B) if _is(name, leaf)}
    )
    ranks = _ranks(source, shapes, paths)
    if alpha is None:
        raise DeltaError(
            f"{source}: MindPet's checkpoints do not hold alpha",
            hint="Give the one it was trained with: --alpha.",
        )
    if isinstance(alpha, bool) or not math.isfinite(alpha) or alpha == 0:
        raise DeltaError(f"{source}: alpha must be a number other than 0, not {alpha}")
    rank = Counter(ranks.values()).most_common(1)[0][0]
    return {
        "rank": rank,
        "alpha": float(alpha),
        "variant": "lora",
        "target": paths,
        "rank_pattern": {path: r for path, r in ranks.items() if r != rank},
        "alpha_pattern": {},
    }


def _is(name: str, leaf: str) -> bool:
    return name == leaf or name.endswith("." + leaf)


def _ranks(source: str, shapes: Shapes, paths: list[str]) -> dict[str, int]:
    ranks = {}
    for path in paths:
        start = f"{path}." if path else ""
        a, b = shapes.get(start + LORA_A), shapes.get(start + LORA_B)
        shown = path or "the net itself"
        if a is None or b is None:
            raise DeltaError(f"{source}: {shown} has only one of the two LoRA matrices", hint="The file is incomplete.")
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            raise DeltaError(f"{source}: the LoRA matrices of {shown}, {list(a)} and {list(b)}, do not multiply")
        ranks[path] = a[0]
    return ranks


def _ptuning2(delta: Delta, found: Mapping[str, str], sites: Sites | None) -> Delta:
    """Split one table for all layers, (P, 2 * layers * N * D), layer l's keys in part 2 l and its values in part 2 l + 1, by layers.

    A projection is applied: E <- tanh(E W_in^T + b_in) W_out^T + b_out, as petrun's own form has a projection for every layer.
    """
    path = str(delta.path)
    names = prefix_tables(path, sites)
    assert sites is not None
    parts = {name.split(_PTUNING2, 1)[1]: stored for name, stored in found.items() if _PTUNING2 in name}
    if _TABLE not in parts:
        raise DeltaError(f"{path}: lacks {_PTUNING2}{_TABLE}", hint="The file is incomplete.")
    table = _projected(path, {leaf: delta.tensors[stored] for leaf, stored in parts.items() if leaf != "prefix"})
    width = 2 * sites.kv_heads * sites.head_dim
    if table.ndim != 2 or table.shape[1] != width * sites.layers:
        raise DeltaError(
            f"{path}: its virtual tokens are {list(table.shape)}; this base has {sites.layers} layers of {sites.kv_heads} key/value "
            f"heads of width {sites.head_dim}, for which they would be {width * sites.layers} wide",
            hint="Check that --base is the model it was trained on.",
        )
    tensors = {name: np.ascontiguousarray(table[:, i * width : (i + 1) * width]) for i, name in enumerate(names)}
    tensors |= {name: delta.tensors[stored] for name, stored in found.items() if _PTUNING2 not in name}
    for name, values in tensors.items():
        refuse_nonfinite(path, name, values)
    config = {"tokens": table.shape[0], "projection": False}
    return replace(delta, tensors=tensors, config=config, digest=arrays_digest(tensors))


def _projected(path: str, parts: Mapping[str, Array]) -> Array:
    table = parts[_TABLE]
    dense = [f"dense_{side}.{kind}" for side in ("in", "out") for kind in ("weight", "bias")]
    there = [leaf for leaf in dense if leaf in parts]
    others = sorted(set(parts) - {_TABLE, *dense})
    if others or (there and there != dense):
        wrong = f"holds {_PTUNING2}{others[0]}" if others else f"lacks {_PTUNING2}{next(iter(set(dense) - set(there)))}"
        raise DeltaError(f"{path}: {wrong}, against the other tensors of its prefix encoder")
    if not there:
        return table
    w_in, b_in, w_out, b_out = (parts[leaf] for leaf in dense)
    if not (
        table.shape[1:] == w_in.shape[1:]
        and w_in.shape[:1] == b_in.shape
        and w_out.shape == (b_out.shape[0], b_in.shape[0])
    ):
        raise DeltaError(f"{path}: the matrices of its prefix encoder do not multiply")
    projected: Array = np.tanh(table @ w_in.T + b_in) @ w_out.T + b_out
    return projected


def _bias_settings(path: str, shapes: Shapes, alpha: float | None) -> JsonObject:
    return {"bias_include": lone_biases(shapes)}


@dataclass(frozen=True, kw_only=True)
class Codec:
    """Reads the checkpoints of one of MindPet's algorithms: the settings come from their names, or the checkpoint is converted."""

    settings: Callable[[str, Shapes, float | None], JsonObject] | None = None
    """(path for messages, name in the net -> shape, alpha) -> the settings. Such checkpoints are written as well. Raises DeltaError."""
    convert: Callable[[Delta, Mapping[str, str], Sites | None], Delta] | None = None
    """(delta, name in the net -> name in the file, the model's sites) -> the delta in petrun's form. Raises DeltaError."""
    has_alpha: bool = False
    """Whether it has a scale, which no checkpoint holds."""


CODECS = {
    "lora": Codec(settings=_lora_settings, has_alpha=True),
    "adapter": Codec(settings=adapter_settings),
    "low_rank_adapter": Codec(settings=low_rank_adapter_settings),
    "ptuning2": Codec(convert=_ptuning2),
    "bitfit": Codec(settings=_bias_settings),
}
"""MindPet's name of an algorithm -> its codec. The record of the method holds this name (`Method.mindpet`)."""
