"""Write deltas that add a low-rank product to every layer as plain LoRA.

    lora, rslora: s B A;   pissa: s [B, -B_0] [A; A_0], of twice the rank;   adalora: s (B diag(e)) A, of the triplets in use

A, B and the scale s stay as they are wherever that is possible: the conversion of a LoRA or rsLoRA is bit-exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from petrun.algebra.low_rank import Product
from petrun.checkpoint.delta import Delta
from petrun.checkpoint.delta_method import method_of
from petrun.checkpoint.delta_tensors import arrays_digest
from petrun.checkpoint.mindpet_names import is_bias
from petrun.delta import bitfit, lora, method_of_tensor, names_where, parts_of
from petrun.delta.bitfit import BitfitConfig
from petrun.delta.compose import JOIN
from petrun.delta.lora import LORA_A, LORA_B, LoraConfig
from petrun.errors import DeltaError
from petrun.tensors import Array
from petrun.typing import JsonObject

PLAIN = lora.METHOD.name
"""The method that every delta of products can be written as."""


@dataclass(frozen=True)
class LayerUpdate:
    """The update of one layer's weight: scale * B A."""

    product: Product
    scale: float

    @property
    def update(self) -> Product:
        """The scale inside B."""
        return self.product.times(self.scale)


def is_low_rank(delta: Delta) -> bool:
    """Return True for a product for every layer, beside full tensors; False for full tensors alone (bitfit, full).

    `delta.config` must be the method's full settings.
    Raises DeltaError, with the reason, for a delta that is not a sum: DoRA, (IA)^3, adapters, virtual tokens.
    """
    method, config = method_of(delta.algo, delta.config, delta.path)
    reason = method.why_no_sum(config)
    if reason is not None:
        sums = names_where(lambda each: each.why_no_sum(each.config()) is None)
        raise DeltaError(
            f"{delta.path}: is a {delta.algo} delta, {reason}",
            hint=f"These are sums: {sums}."
            if method.merge is None
            else "Merge it into its base, and extract a LoRA from the two: petrun delta extract.",
        )
    return method.low_rank is not None


def require_products(delta: Delta) -> None:
    """Raises DeltaError where the delta adds no products to layers: it is not a sum, or holds full tensors alone."""
    if not is_low_rank(delta):
        raise DeltaError(
            f"{delta.path}: is a {delta.algo} delta, of whole tensors",
            hint="petrun delta extract makes a LoRA of a base and a tuned model.",
        )


def adds_products(delta: Delta) -> bool:
    """Return what `is_low_rank` does; False for a delta that is not a sum."""
    try:
        return is_low_rank(delta)
    except DeltaError:
        return False


def is_factor(name: str) -> bool:
    """Return whether a tensor is part of a layer's product; any other is a parameter of the net, trained in full."""
    method = method_of_tensor(name)
    return method is not None and method.low_rank is not None


def layers(delta: Delta) -> dict[str, LayerUpdate]:
    """Return path -> what is added there. `delta.config` must be the method's full settings.

    Raises DeltaError: a matrix without its partner, shapes that do not go together or contradict the settings.
    """
    method, config = method_of(delta.algo, delta.config, delta.path)
    assert method.low_rank is not None, f"{method.name} adds no products"
    try:
        found = {
            path: LayerUpdate(Product(b=update.b, a=update.a), update.scale)
            for path, update in method.low_rank(config, delta.tensors)
        }
    except DeltaError as error:
        raise DeltaError(f"{delta.path}: {error.message}", hint=error.hint) from error
    if not found:
        raise DeltaError(f"{delta.path}: says it is a {delta.algo} delta, and holds none of its matrices")
    return found


def as_lora(delta: Delta) -> Delta:
    """Convert a delta of products to a plain LoRA; full tensors beside it stay. Raises DeltaError as `is_low_rank` and `layers` do."""
    require_products(delta)
    found = layers(delta)
    full = {name: delta.tensors[name] for name in delta.tensors if not is_factor(name)}
    tensors = {**lora_tensors(found), **full}
    algo, config = lora_settings(found, full, [delta])
    return replace(delta, tensors=tensors, algo=algo, config=config, digest=arrays_digest(tensors))


def lora_tensors(found: Mapping[str, LayerUpdate]) -> dict[str, Array]:
    """Return the tensors of a plain LoRA with these layers, float32."""
    tensors = {}
    for path, layer in found.items():
        tensors[f"{path}.{LORA_A}"] = np.ascontiguousarray(layer.product.a, np.float32)
        tensors[f"{path}.{LORA_B}"] = np.ascontiguousarray(layer.product.b, np.float32)
    return tensors


def lora_settings(
    found: Mapping[str, LayerUpdate], full: Iterable[str], sources: Iterable[Delta]
) -> tuple[str, JsonObject]:
    """Return (algorithm, settings) of a LoRA with these layers beside full tensors. Settings of training come from the first source."""
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
    own = biases_without_weights(full) if any(bitfit.METHOD in parts_of(source.algo) for source in sources) else []
    settings = config.model_dump(mode="json")
    if not own:
        return PLAIN, settings
    return JOIN.join((PLAIN, bitfit.METHOD.name)), settings | biases_alone(own)


def biases_alone(names: list[str]) -> JsonObject:
    """Return the settings of bitfit for these biases."""
    return BitfitConfig(bias_include=tuple(names)).model_dump(mode="json")


def biases_without_weights(full: Iterable[str]) -> list[str]:
    """Return the biases that are trained without their weights: bitfit's, not a head's."""
    names = set(full)
    return sorted(
        name
        for name in names
        if is_bias(name) and not {f"{name.rpartition('.')[0]}.{leaf}" for leaf in ("weight", "gamma")} & names
    )
