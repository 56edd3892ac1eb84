"""Random numbers that are a pure function of (seed, step, site, position in the whole batch): those of dropout's hash, as numbers.

With h a hash of petrun/kernels/dropout.py, and u = (h >> 8 mod 2^24), a uniform number is u / 2^24, in [0, 1), and a normal one is
    sqrt(-2 log((u + 1/2) / 2^24)) * cos(2 pi v / 2^24),
u and v of two sites. Source: Box and Muller, "A note on the generation of random normal deviates", 1958. No generator state exists: a run
that stops and resumes, and ranks that share a batch, draw the numbers that one process draws without a stop.
"""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from petrun.kernels.dropout import KeepMask, batch_offset, step_counter

_HASHES = 2**24


class CounterHash(nn.Cell):
    """The upper 24 bits of dropout's hash. Inputs: shape, its first axis the rows of the batch. Returns: that shape, int32."""

    def __init__(self, seed: int, site: str) -> None:
        super().__init__()
        self.mask = KeepMask(0.0, seed, site)
        # Not attributes in the cell's eyes: see petrun.kernels.dropout.Dropout.
        object.__setattr__(self, "step", step_counter())
        object.__setattr__(self, "offset", batch_offset())
        self.by_8, self.low_24 = Tensor(8, ms.int32), Tensor(_HASHES - 1, ms.int32)
        self.shift, self.both = ops.RightShift(), ops.BitwiseAnd()

    def construct(self, shape: tuple[int, ...]) -> Tensor:
        count = int(np.prod(shape))
        h = ops.reshape(self.mask.hashes(self.step, self.offset, shape), (-1,))
        upper = self.both(self.shift(h, self.by_8), self.low_24)
        return ops.reshape(upper if upper.shape[0] == count else upper[:count], shape)


class CounterUniform(nn.Cell):
    """Uniform numbers in [0, 1). Inputs: shape, its first axis the rows of the batch. Returns: that shape, float32."""

    def __init__(self, seed: int, site: str) -> None:
        super().__init__()
        self.hash = CounterHash(seed, site)

    def construct(self, shape: tuple[int, ...]) -> Tensor:
        return ops.cast(self.hash(shape), ms.float32) * (1.0 / _HASHES)


class CounterNormal(nn.Cell):
    """Normal numbers of mean 0 and variance 1. Inputs: shape, its first axis the rows of the batch. Returns: that shape, float32."""

    def __init__(self, seed: int, site: str) -> None:
        super().__init__()
        self.length, self.angle = CounterHash(seed, f"{site}.length"), CounterHash(seed, f"{site}.angle")

    def construct(self, shape: tuple[int, ...]) -> Tensor:
        u = (ops.cast(self.length(shape), ms.float32) + 0.5) * (1.0 / _HASHES)
        v = ops.cast(self.angle(shape), ms.float32) * (1.0 / _HASHES)
        return ops.sqrt(-2.0 * ops.log(u)) * ops.cos(2.0 * math.pi * v)
