"""Compare two deltas of one base: the norms of what each adds to every layer, the angle between the two, and their difference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from petrun.algebra.plain_lora import adds_products, is_factor, layers
from petrun.checkpoint.delta import Delta
from petrun.errors import DeltaError


@dataclass(frozen=True)
class Norm:
    """One layer's update, or one tensor."""

    name: str
    shape: tuple[int, ...]
    norm: float
    """Frobenius norm; for a layer, of scale * B A."""
    rank: int | None = None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same layer or tensor of two deltas; None for a delta that does not have it."""

    name: str
    first: float | None
    second: float | None
    cosine: float | None = None
    difference: float | None = None
    """Norm of second - first."""
    update: bool = False
    """The norms are of what is added to the base, not of a tensor's values."""


def norms(delta: Delta) -> list[Norm]:
    """Compute the norm of every layer's product where the delta adds products, and of every other tensor."""
    found: list[Norm] = []
    products = adds_products(delta)
    if products:
        for path, layer in layers(delta).items():
            update = layer.update
            found.append(Norm(path, update.shape, update.norm(), update.rank))
    for name in delta.tensors:
        if not (products and is_factor(name)):
            values = delta.tensors[name].astype(np.float64)
            found.append(Norm(name, values.shape, float(np.linalg.norm(values))))
    return found


def compared(first: Delta, second: Delta) -> list[Pair]:
    """Pair the layers, then the other tensors, in the first delta's order. Raises DeltaError where a layer has two shapes."""
    return [*_layers(first, second), *_tensors(first, second)]


def _layers(first: Delta, second: Delta) -> Iterator[Pair]:
    these, those = ({p: x.update for p, x in layers(d).items()} if adds_products(d) else {} for d in (first, second))
    for path in dict.fromkeys((*these, *those)):
        one, other = these.get(path), those.get(path)
        if one is None or other is None:
            yield Pair(
                name=path, first=one.norm() if one else None, second=other.norm() if other else None, update=True
            )
            continue
        if one.shape != other.shape:
            raise DeltaError(
                f"{path} is {one.shape} in {first.path} and {other.shape} in {second.path}",
                hint="They are deltas of different bases.",
            )
        gap = other.minus(one).norm()
        yield Pair(
            name=path, first=one.norm(), second=other.norm(), cosine=one.cosine(other), difference=gap, update=True
        )


def _tensors(first: Delta, second: Delta) -> Iterator[Pair]:
    hidden = [adds_products(delta) for delta in (first, second)]
    for name in dict.fromkeys((*first.tensors, *second.tensors)):
        values = [
            delta.tensors[name].astype(np.float64) if name in delta.tensors and not (skip and is_factor(name)) else None
            for delta, skip in zip((first, second), hidden, strict=True)
        ]
        one, other = values
        if one is None and other is None:
            continue
        sizes = [None if each is None else float(np.linalg.norm(each)) for each in values]
        if one is None or other is None or one.shape != other.shape:
            yield Pair(name=name, first=sizes[0], second=sizes[1])
            continue
        both = math.prod(size or 0.0 for size in sizes)
        cosine = float(np.sum(one * other)) / both if both else None
        yield Pair(
            name=name, first=sizes[0], second=sizes[1], cosine=cosine, difference=float(np.linalg.norm(other - one))
        )
