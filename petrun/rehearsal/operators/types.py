"""Types of the values that operators take and return, and the rounding of a result to its type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from petrun.rehearsal.step_graph import BFLOAT16, TensorType
from petrun.tensors import Array

Value: TypeAlias = Any
"""An array, a Variable, a number, text, a tuple of values, None or a Monad."""
Compute: TypeAlias = Callable[..., Value]
"""(node, *inputs) -> value. float32 comes as float64, half precision as float32; `computed` turns the result into the types that the node
names."""


_WIDER = {"e": np.float32, "f": np.float64}
"""numpy's character of a type -> the type that is computed with."""


class Variable:
    """One parameter of one rank, which operators may change. Arrays are replaced and never changed in place."""

    __slots__ = ("value",)

    def __init__(self, value: Array) -> None:
        self.value = value


def rounded(value: Array, kind: TensorType) -> Array:
    """Return a result in its type; of bfloat16 the nearest values, as float32."""
    if kind.dtype == BFLOAT16:
        return to_bfloat16(np.asarray(value, np.float32))
    return np.asarray(value).astype(kind.dtype, copy=False)


def computed(value: Array, kind: TensorType) -> Array:
    """Return a result as later operators take it: float32 stays in float64, so that what ranks and one rank differ by is no order of sums
    on the ranks' side; every other type is rounded to.
    """
    return np.asarray(value, np.float64) if kind.dtype == "float32" else rounded(value, kind)


def to_bfloat16(value: Array) -> Array:
    """Round float32 to the nearest bfloat16, ties to even; the result is float32."""
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32)
    # One more where the half below the last kept bit is passed, or met with that bit set.
    up = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    found: Array = np.where(np.isnan(value), np.float32(np.nan), up.view(np.float32)).reshape(np.shape(value))
    return found


def widened(value: Value) -> Value:
    """Return what an operator computes with: a variable's value now; float16 as float32, and float32 as float64."""
    if isinstance(value, Variable):
        value = value.value
    if isinstance(value, tuple):
        return tuple(widened(item) for item in value)
    return (
        value.astype(_WIDER[value.dtype.char])
        if isinstance(value, np.ndarray) and value.dtype.char in _WIDER
        else value
    )


def axes(found: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Return the axes that an operator reduces; none given are all."""
    if found is None or found == ():
        return tuple(range(ndim))
    return tuple(found) if isinstance(found, tuple | list) else (int(found),)  # type: ignore[arg-type]
