"""Sum the full tensors of deltas: biases, heads, or every parameter. A delta holds the value, not the change.

    v = base + sum of w_i (v_i - base) = (1 - sum of w_i) base + sum of w_i v_i

so that the base is read only where the weights do not add up to 1. The change of a head that the base does not hold is unknown: the
heads of several deltas are averaged by their weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from petrun.algebra.ties_dare import Combine
from petrun.checkpoint.base_arrays import BaseArrays
from petrun.checkpoint.delta import Delta
from petrun.checkpoint.delta_tensors import Computed
from petrun.errors import DeltaError
from petrun.tensors import Array

_NEARLY_ONE = 1e-9


@dataclass(frozen=True)
class Term:
    """A delta and its weight in a sum."""

    delta: Delta
    weight: float


class NeedsBase(DeltaError):
    """A sum needs the values of the base."""


@dataclass
class FullTensorSum:
    """Plans the sum of full tensors, then computes it one at a time."""

    terms: Sequence[Term]
    base: BaseArrays | None
    combine: Combine | None = None
    """How changes are joined; None: the plain weighted sum."""
    averaged: list[str] = field(default_factory=list)
    """Heads that the base does not hold."""

    def planned(self, names: Iterable[str]) -> Computed:
        """Return name -> its sum. Raises DeltaError: shapes that differ, weights that cancel; NeedsBase."""
        makers = {}
        for name in names:
            holders = [term for term in self.terms if name in term.delta.tensors]
            shapes = {term.delta.shapes[name] for term in holders}
            if len(shapes) > 1:
                raise DeltaError(
                    f"{name} is " + ", ".join(f"{list(t.delta.shapes[name])} in {t.delta.path}" for t in holders),
                    hint="Heads of different tasks do not add up: keep the deltas apart.",
                )
            make = partial(self._mean, name, holders) if self._fresh(name) else partial(self._sum, name, holders)
            if self._fresh(name):
                self._check_mean(name, holders)
            elif self.base is None and (self.combine is not None or abs(self._rest(holders)) > _NEARLY_ONE):
                raise NeedsBase(
                    f"{name} is trained as a whole: its change is known only beside the base",
                    hint="Give the base: --base. Where weights add up to 1 a plain sum needs none.",
                )
            makers[name] = (shapes.pop(), make)
        return Computed(makers)

    def _fresh(self, name: str) -> bool:
        told = any(t.delta.manifest is not None and name in t.delta.manifest.base.fresh for t in self.terms)
        return told or (self.base is not None and name not in self.base)

    def _check_mean(self, name: str, holders: Sequence[Term]) -> None:
        if abs(sum(t.weight for t in holders)) < _NEARLY_ONE:
            raise DeltaError(f"{name} is in no base: the deltas' weights for it cancel out")
        if len(holders) > 1:
            self.averaged.append(name)

    @staticmethod
    def _rest(holders: Sequence[Term]) -> float:
        return 1.0 - sum(term.weight for term in holders)

    def _mean(self, name: str, holders: Sequence[Term]) -> Array:
        if len(holders) == 1:
            return holders[0].delta.tensors[name]
        total = sum(term.weight for term in holders)
        return _weighted([(t.weight / total, t.delta.tensors[name]) for t in holders])

    def _sum(self, name: str, holders: Sequence[Term]) -> Array:
        rest = self._rest(holders)
        if self.combine is not None:
            assert self.base is not None
            own = self.base[name]
            changes = [term.delta.tensors[name] - own for term in holders]
            result: Array = own + self.combine(name, changes, [term.weight for term in holders])
            return result
        if len(holders) == 1 and abs(rest) <= _NEARLY_ONE:
            return holders[0].delta.tensors[name]
        parts = [(term.weight, term.delta.tensors[name]) for term in holders]
        if abs(rest) > _NEARLY_ONE:
            assert self.base is not None
            parts.append((rest, self.base[name]))
        return _weighted(parts)


def _weighted(parts: Sequence[tuple[float, Array]]) -> Array:
    """Sum in float64, and round once."""
    total = np.zeros(parts[0][1].shape, np.float64)
    for weight, values in parts:
        total += weight * values.astype(np.float64)
    return total.astype(np.float32)
