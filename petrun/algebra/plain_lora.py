"""Deltas that add a product of thin matrices to every layer, as the plain LoRA that they are.

    lora, rslora: s B A;   pissa: s [B, -B_0] [A; A_0], of twice the rank;   adalora: s (B diag(e)) A, of the triplets in use

A, B and the scale s are taken as they are wherever that is possible, so that converting changes no bit of a LoRA or rsLoRA.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from petrun.algebra.low_rank import Product, joined
from petrun.checkpoint.delta import (
    ADALORA_A,
    ADALORA_B,
    ADALORA_E,
    ADALORA_KEEP,
    LORA_A,
    LORA_A0,
    LORA_B,
    LORA_B0,
    LORA_BIAS,
    LORA_M,
    Delta,
)
from petrun.checkpoint.delta_tensors import arrays_digest
from petrun.delta.compose import JOIN, split_names
from petrun.delta.lora import LoraConfig
from petrun.errors import DeltaError
from petrun.interop.mindpet.names import is_bias
from petrun.tensors import Array

_KIN = ("lora", "adalora")
_WHOLE = ("bitfit", "full")
_NETWORK = "is a small network with an activation in every layer: two of them do not add up to one"
_TOKENS = "puts virtual tokens before the row, and attention to them is not a sum"
_WHY_NOT = {
    "ia3": "multiplies what a layer gives: factors do not add up",
    "adapter": _NETWORK,
    "low_rank_adapter": _NETWORK,
    "prefix": _TOKENS,
    "ptuning2": _TOKENS,
    "prompt": _TOKENS,
    "ptuning": _TOKENS,
    "r_drop": "is a loss, and adds nothing to the base",
}
_FACTORS = {LORA_A, LORA_B, LORA_BIAS, LORA_A0, LORA_B0, LORA_M, ADALORA_A, ADALORA_B, ADALORA_E, ADALORA_KEEP}


@dataclass(frozen=True)
class Layer:
    """What is added to one layer's weight: scale * B A."""

    product: Product
    scale: float

    @property
    def update(self) -> Product:
        """The scale inside B."""
        return self.product.times(self.scale)


def is_low_rank(delta: Delta) -> bool:
    """True: a product for every layer, beside whole tensors. False: whole tensors alone (bitfit, full).

    Raises DeltaError, with the reason, for a delta that is no sum: DoRA, (IA)^3, adapters, virtual tokens.
    """
    parts = split_names(delta.algo)
    for part in parts:
        if part in _WHY_NOT and not (part == "r_drop" and len(parts) > 1):
            raise DeltaError(
                f"{delta.path}: is a {delta.algo} delta, which {_WHY_NOT[part]}",
                hint="LoRA's kin, bitfit and full are sums.",
            )
    if delta.config.get("variant") == "dora":
        raise DeltaError(
            f"{delta.path}: is a DoRA delta, whose magnitudes multiply base and update together: it is no sum",
            hint="Merge it into its base, and extract a LoRA from the two: petrun delta extract.",
        )
    if delta.config.get("bias"):
        raise DeltaError(
            f"{delta.path}: is a LoRA with a bias on B (delta.bias), which a product of two matrices has no place for",
            hint="Merge it into its base, and extract a LoRA from the two: petrun delta extract.",
        )
    if any(part in _KIN for part in parts):
        return True
    assert all(part in (*_WHOLE, "r_drop") for part in parts), delta.algo
    return False


def is_factor(name: str) -> bool:
    """Whether a tensor is part of a layer's product; any other is a parameter of the net, trained whole."""
    return name.rpartition(".")[2] in _FACTORS


def layers(delta: Delta) -> dict[str, Layer]:
    """Path -> what is added there. `delta.config` must be the method's whole settings.

    Raises DeltaError: a matrix without its partner, shapes that do not go together or contradict the settings.
    """
    found = {}
    for path in dict.fromkeys(name.rpartition(".")[0] for name in delta.tensors if is_factor(name)):
        found[path] = _adalora(delta, path) if f"{path}.{ADALORA_A}" in delta.tensors else _lora(delta, path)
    if not found:
        raise DeltaError(f"{delta.path}: says it is a {delta.algo} delta, and holds none of its matrices")
    return found


def _lora(delta: Delta, path: str) -> Layer:
    config = LoraConfig.model_validate({k: v for k, v in delta.config.items() if k in LoraConfig.model_fields})
    rank, scale = config.site(path)
    product = _pair(delta, path, LORA_A, LORA_B, rank)
    if config.variant == "pissa":
        start = _pair(delta, path, LORA_A0, LORA_B0, rank)
        if start.shape != product.shape:
            raise DeltaError(f"{delta.path}: {path} has matrices {product.shape} and initial ones {start.shape}")
        product = joined([product, Product(b=-start.b, a=start.a)])
    return Layer(product, scale)


def _pair(delta: Delta, path: str, a: str, b: str, rank: int) -> Product:
    for leaf in (a, b):
        if f"{path}.{leaf}" not in delta.tensors:
            raise DeltaError(f"{delta.path}: lacks {path}.{leaf}", hint="Its settings and its tensors do not agree.")
    factors = Product(b=delta.tensors[f"{path}.{b}"], a=delta.tensors[f"{path}.{a}"])
    shapes = factors.b.shape, factors.a.shape
    if [len(shape) for shape in shapes] != [2, 2] or shapes[0][1] != shapes[1][0] or shapes[1][0] != rank:
        raise DeltaError(
            f"{delta.path}: the matrices of {path}, {list(shapes[0])} and {list(shapes[1])}, do not multiply at rank {rank}"
        )
    return factors


def _adalora(delta: Delta, path: str) -> Layer:
    vectors = {}
    for leaf in (ADALORA_E, ADALORA_KEEP):
        if f"{path}.{leaf}" not in delta.tensors:
            raise DeltaError(f"{delta.path}: lacks {path}.{leaf}", hint="Its settings and its tensors do not agree.")
        vectors[leaf] = delta.tensors[f"{path}.{leaf}"]
    values = vectors[ADALORA_E].reshape(-1) * vectors[ADALORA_KEEP].reshape(-1)
    whole = _pair(delta, path, ADALORA_A, ADALORA_B, len(values))
    places = np.flatnonzero(values)
    # A layer that gave up every triplet keeps one that is zero: LoRA knows no rank 0.
    places = places if len(places) else np.zeros(1, np.int64)
    product = Product(b=whole.b[:, places] * values[places], a=np.ascontiguousarray(whole.a[places]))
    return Layer(product, float(delta.config["alpha"]) / (len(values) + 1e-5))


def as_lora(delta: Delta) -> Delta:
    """A LoRA-kin delta as algo "lora", variant "lora"; whole tensors beside it stay. Raises DeltaError as `is_low_rank` and `layers` do."""
    if not is_low_rank(delta):
        raise DeltaError(
            f"{delta.path}: is a {delta.algo} delta, of whole tensors",
            hint="petrun delta extract makes a LoRA of a base and a tuned model.",
        )
    found = layers(delta)
    whole = {name: delta.tensors[name] for name in delta.tensors if not is_factor(name)}
    tensors = {**factors(found), **whole}
    algo, config = described(found, whole, [delta])
    return replace(delta, tensors=tensors, algo=algo, config=config, digest=arrays_digest(tensors))


def factors(found: Mapping[str, Layer]) -> dict[str, Array]:
    """The tensors of a plain LoRA with these layers, float32."""
    tensors = {}
    for path, layer in found.items():
        tensors[f"{path}.{LORA_A}"] = np.ascontiguousarray(layer.product.a, np.float32)
        tensors[f"{path}.{LORA_B}"] = np.ascontiguousarray(layer.product.b, np.float32)
    return tensors


def described(found: Mapping[str, Layer], whole: Iterable[str], sources: Iterable[Delta]) -> tuple[str, dict[str, Any]]:
    """(algorithm, settings) of a LoRA with these layers beside whole tensors; what only training asks comes from the first source."""
    sources = list(sources)
    ranks = {path: layer.product.rank for path, layer in found.items()}
    alphas = {path: layer.scale * ranks[path] for path, layer in found.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    config = LoraConfig(
        rank=rank,
        alpha=alpha,
        dropout=sources[0].config.get("dropout", 0.0) if sources else 0.0,
        target=tuple(found),
        rank_pattern={path: value for path, value in ranks.items() if value != rank},
        alpha_pattern={path: value for path, value in alphas.items() if value != alpha},
    )
    joins = any("bitfit" in split_names(source.algo) for source in sources)
    own = lone(whole) if joins else []
    settings = config.model_dump(mode="json") | ({"bias_include": own, "bias_exclude": []} if own else {})
    return JOIN.join(("lora", "bitfit") if own else ("lora",)), settings


def lone(whole: Iterable[str]) -> list[str]:
    """Biases that are trained without their weights: bitfit's, not a head's."""
    names = set(whole)
    return sorted(
        name
        for name in names
        if is_bias(name) and not {f"{name.rpartition('.')[0]}.{leaf}" for leaf in ("weight", "gamma")} & names
    )
