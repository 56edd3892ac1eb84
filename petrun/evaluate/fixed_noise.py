"""Normal numbers that are a function of a seed and a number alone: no order of drawing, no batch and no device changes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from petrun.tensors import Array

_BITS = 53


def fixed_uniform(shape: Sequence[int], seed: int, number: int = 0) -> Array:
    """Return uniform numbers in (0, 1), float64: (r + 1/2) / 2^53, r the upper bits of Philox with the key (seed, number).

    numpy promises Philox's bits for all versions, and not those of its normal numbers. Source: Salmon et al., "Parallel random numbers:
    as easy as 1, 2, 3", 2011. `seed` and `number`: 0 to 2^64 - 1.
    """
    raw = np.random.Philox(key=np.array([seed, number], np.uint64)).random_raw(math.prod(shape))
    found: Array = ((raw >> np.uint64(64 - _BITS)).astype(np.float64) + 0.5) / 2.0**_BITS
    return found.reshape(tuple(shape))


def fixed_normal(shape: Sequence[int], seed: int, number: int = 0) -> Array:
    """Return normal numbers of mean 0 and variance 1, float32: sqrt(-2 log u) cos(2 pi v). Source: Box and Muller, 1958."""
    u, v = fixed_uniform((2, *shape), seed, number)
    found: Array = (np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * math.pi * v)).astype(np.float32)
    return found
