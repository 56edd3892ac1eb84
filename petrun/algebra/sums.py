"""Compute weighted sums and truncations of deltas on files, and what both cost in precision. Loads no net, and a base only where asked.

Sums of LoRA and its variants are exact: s_1 B_1 A_1 + s_2 B_2 A_2 = [s_1 B_1, s_2 B_2] [A_1; A_2], of the sum of the ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from petrun.algebra.full_tensors import FullTensorSum, Term
from petrun.algebra.low_rank import Keep, Product, distance, factored, joined
from petrun.algebra.plain_lora import (
    LayerUpdate,
    biases_alone,
    biases_without_weights,
    is_factor,
    is_low_rank,
    layers,
    lora_settings,
    lora_tensors,
    require_products,
)
from petrun.algebra.ties_dare import Combine
from petrun.checkpoint.base_arrays import BaseArrays
from petrun.checkpoint.delta import Delta
from petrun.delta import bitfit, parts_of
from petrun.errors import DeltaError
from petrun.tensors import Array
from petrun.typing import JsonObject

__all__ = ["Fidelity", "NewDelta", "Term", "added", "compressed"]


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """The error of a layer's new product against the exact update, as Frobenius norms."""

    path: str
    rank: int
    norm: float
    error: float

    @property
    def relative(self) -> float:
        return self.error / self.norm if self.norm else 0.0


@dataclass(frozen=True)
class NewDelta:
    """A new delta, not yet on disk."""

    tensors: Mapping[str, Array]
    algo: str
    config: JsonObject
    layers: tuple[Fidelity, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def relative(self) -> float:
        """Return the relative Frobenius error over all layers."""
        norm = math.hypot(*(layer.norm for layer in self.layers))
        return math.hypot(*(layer.error for layer in self.layers)) / norm if norm else 0.0


def added(
    terms: Sequence[Term], *, base: BaseArrays | None = None, combine: Combine | None = None, keep: Keep | None = None
) -> NewDelta:
    """Return the weighted sum of deltas of one base.

    base: only for full tensors whose weights do not add up to 1 (NeedsBase says so). combine: TIES or DARE instead of the plain sum; its
    result has full rank. keep: truncate the sum. Without it a plain sum keeps every rank; TIES and DARE keep the sum of the ranks.
    Raises DeltaError: a delta that is not a sum, low-rank and full deltas mixed, shapes that differ.
    """
    keep = keep or Keep()
    kinds = {term.delta.path: is_low_rank(term.delta) for term in terms}
    if len(set(kinds.values())) > 1:
        pair = [next(path for path, kind in kinds.items() if kind is wanted) for wanted in (True, False)]
        raise DeltaError(
            f"{pair[0]} holds a product for every layer, {pair[1]} whole tensors: the two have no common form",
            hint="Extract a LoRA from base and tuned model first: petrun delta extract.",
        )
    full = FullTensorSum(terms, base, combine)
    values = full.planned(dict.fromkeys(name for term in terms for name in term.delta.tensors if not is_factor(name)))
    if not any(kinds.values()):
        if not keep.everything:
            raise DeltaError("whole tensors have no rank to cut", hint="Leave --rank and --energy out.")
        algo, config = _full_algo([term.delta for term in terms], values)
        return NewDelta(values, algo, config, notes=_notes(full))
    found, fidelity = _joint_layers(terms, combine, keep)
    algo, config = lora_settings(found, values, [term.delta for term in terms])
    return NewDelta({**lora_tensors(found), **values}, algo, config, tuple(fidelity), _notes(full))


def _notes(full: FullTensorSum) -> tuple[str, ...]:
    named = ", ".join(full.averaged)
    return (f"the base does not hold {named}: averaged by the weights",) if named else ()


def _full_algo(deltas: Sequence[Delta], names: Mapping[str, Array]) -> tuple[str, JsonObject]:
    every = next((m for delta in deltas for m in parts_of(delta.algo) if m.trains == "all"), None)
    return (bitfit.METHOD.name, biases_alone(biases_without_weights(names))) if every is None else (every.name, {})


def _joint_layers(
    terms: Sequence[Term], combine: Combine | None, keep: Keep
) -> tuple[dict[str, LayerUpdate], list[Fidelity]]:
    each = [(layers(term.delta), term) for term in terms]
    found, fidelity = {}, []
    for path in dict.fromkeys(path for these, _ in each for path in these):
        held = [(these[path], term) for these, term in each if path in these]
        shapes = {layer.product.shape for layer, _ in held}
        if len(shapes) > 1:
            raise DeltaError(
                f"{path} is " + ", ".join(f"{layer.product.shape} in {term.delta.path}" for layer, term in held),
                hint="They are deltas of different bases.",
            )
        parts = [(layer, term.weight) for layer, term in held]
        found[path], report = _combined(path, parts, combine, keep) if combine else _summed(path, parts, keep)
        fidelity.append(report)
    return found, fidelity


def _summed(path: str, parts: Sequence[tuple[LayerUpdate, float]], keep: Keep) -> tuple[LayerUpdate, Fidelity]:
    exact = joined([layer.update.times(weight) for layer, weight in parts])
    if keep.everything:
        # The factors of the first layer stay as they are, and so do those of the others with the same scale and weight.
        scale = parts[0][0].scale * parts[0][1]
        product = joined([_at(layer, layer.scale * weight / scale) for layer, weight in parts])
        layer = LayerUpdate(_rounded(product), scale)
    else:
        layer = LayerUpdate(_rounded(exact.truncated(keep)), 1.0)
    return layer, Fidelity(
        path=path, rank=layer.product.rank, norm=exact.norm(), error=layer.update.minus(exact).norm()
    )


def _at(layer: LayerUpdate, factor: float) -> Product:
    return layer.product if factor == 1.0 else layer.product.times(factor)


def _rounded(product: Product) -> Product:
    """Round the factors to float32, the type on disk."""
    return Product(b=product.b.astype(np.float32), a=product.a.astype(np.float32))


def _combined(
    path: str, parts: Sequence[tuple[LayerUpdate, float]], combine: Combine, keep: Keep
) -> tuple[LayerUpdate, Fidelity]:
    dense = combine(path, [layer.update.dense() for layer, _ in parts], [weight for _, weight in parts])
    ranks = sum(layer.product.rank for layer, _ in parts)
    product = _rounded(factored(dense, Keep(rank=ranks) if keep.everything else keep))
    norm = float(np.linalg.norm(dense.astype(np.float64)))
    return LayerUpdate(product, 1.0), Fidelity(path=path, rank=product.rank, norm=norm, error=distance(dense, product))


def compressed(delta: Delta, keep: Keep) -> NewDelta:
    """Return the delta with every layer's product truncated to the rank that `keep` says. Raises DeltaError as `added` does."""
    require_products(delta)
    return added([Term(delta, 1.0)], keep=keep)
