"""Dropout whose mask is a pure function of (seed, step, site, position in the whole batch).

The bit for flat index i at step s is taken from a 32-bit integer hash, keyed by 64 bits of (seed, site):

    z(x)    = x ^ (x >> 16);  z * 0x21F0AAAD;  z ^ (z >> 15);  z * 0x735A2D97;  z ^ (z >> 15)
    k0, k1  = SHA-256(seed, site), the first two 32-bit words
    a       = z(k0 + s * 0x9E3779B9);   b = z(a ^ k1)
    h       = i ^ a;  h ^= h >> 16;  h *= 0x21F0AAAD;  h += b;  h ^= h >> 15;  h *= 0x735A2D97;  h ^= h >> 15
    keep    = (h as a signed number) >= round(p * 2^32) - 2^31

A process that holds rows f, f + 1, ... of a batch, e elements each, begins at i = f * e: however many share the batch, its rows
are masked as one would mask them. Everything is modulo 2^32, so the pattern repeats after 2^32 elements of one tensor. No generator state
exists: a run that stops and resumes, another process and the other execution mode draw the same masks, and the
backward pass draws them again instead of keeping them.
Source: the constants of z are those of the low-bias search in github.com/skeeto/hash-prospector (issue 19).
"""

from __future__ import annotations

import hashlib
import math
from functools import cache, lru_cache

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops.primitive import Primitive

from petrun.errors import ConfigError
from petrun.kernels import fused, native
from petrun.typing import Cell, ShardStrategy

MULTIPLIER_1 = 0x21F0AAAD
MULTIPLIER_2 = 0x735A2D97
GOLDEN = 0x9E3779B9
LANES = 4096


def step_counter(stage: int = 0) -> Parameter:
    """The int32 scalar that every mask depends on: the train step sets it before the forward pass.

    Each stage of a pipeline has one of its own, as MindSpore would send a shared one from stage to stage, and cannot."""
    return _counter(stage)


@cache
def _counter(stage: int) -> Parameter:
    # Apart from step_counter, whose cache would hold one counter for step_counter() and another for step_counter(0).
    name = f"petrun_dropout_step_{stage}" if stage else "petrun_dropout_step"
    counter = Parameter(Tensor(0, ms.int32), name=name, requires_grad=False)
    # MindSpore crashes where it shards a scalar over the ranks of an optimizer that is split.
    counter.parallel_optimizer = False
    return counter


@lru_cache(maxsize=1)
def batch_offset() -> Parameter:
    """(2,) int32 that every mask over rows depends on: offset of the first row held here in the whole batch, and how many rows are
    held. The train step sets it before the forward pass; a tensor with B rows of the batch on its first axis, or B * T, begins there."""
    return Parameter(Tensor([0, 1], ms.int32), name="petrun_batch_offset", requires_grad=False)


def no_offset() -> Tensor:
    """Return the offset of a tensor that is the same on every rank."""
    return Tensor([0, 1], ms.int32)


def count_on_stage(cell: Cell, stage: int) -> None:
    """Make a cell's own masks, if it has any, depend on that stage's counter."""
    if getattr(cell, "step", None) is step_counter():
        object.__setattr__(cell, "step", step_counter(stage))


def signed(word: int) -> int:
    """Return a 32-bit word as the int32 of the same bits."""
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >= 1 << 31 else word


def stream_key(seed: int, site: str) -> tuple[int, int]:
    """Return two 32-bit words, as int32, that represent (seed, site)."""
    digest = hashlib.sha256(f"{seed}/{site}".encode()).digest()
    return signed(int.from_bytes(digest[:4], "little")), signed(int.from_bytes(digest[4:8], "little"))


def keep_threshold(p: float) -> int:
    """Return the smallest int32 hash that is kept: a share of p of all hashes is below."""
    return min(round(p * 2**32), 2**32 - 1) - 2**31


def checked_rate(p: float) -> float:
    """Return p. Raises ConfigError where it is not a probability below 1."""
    if not 0.0 <= p < 1.0:
        raise ConfigError(f"dropout = {p} is not a probability below 1.", hint="Give 0 <= dropout < 1.")
    return p


def fused_key(p: float, seed: int, site: str) -> Tensor:
    """Return (3,) int32: k0, k1 and the threshold, as the C++ operators take them."""
    return Tensor([*stream_key(seed, site), keep_threshold(p)], ms.int32)


class KeepMask(nn.Cell):
    """The mask itself, in primitives with int32 kernels on every target.

    Inputs: step () int32; offset (2,) int32, see `batch_offset`; shape, of the tensor to mask. Returns: that shape, bool, True = kept.
    """

    def __init__(self, p: float, seed: int, site: str) -> None:
        super().__init__()
        key_0, key_1 = stream_key(seed, site)
        self.key_0 = Tensor(key_0, ms.int32)
        self.key_1 = Tensor(key_1, ms.int32)
        self.golden = Tensor(signed(GOLDEN), ms.int32)
        self.multiplier_1 = Tensor(MULTIPLIER_1, ms.int32)
        self.multiplier_2 = Tensor(MULTIPLIER_2, ms.int32)
        self.threshold = Tensor(keep_threshold(p), ms.int32)
        # RightShift of an int32 keeps the sign bits; the masks remove them.
        self.by_15, self.low_17 = Tensor(15, ms.int32), Tensor(0x1FFFF, ms.int32)
        self.by_16, self.low_16 = Tensor(16, ms.int32), Tensor(0xFFFF, ms.int32)
        self.shift = ops.RightShift()
        self.both = ops.BitwiseAnd()
        self.divide = ops.FloorDiv()
        self.xor = ops.BitwiseXor()
        # Those of the mask, apart from those of the key's scalars: over several ranks they are sharded.
        self.mask_shift, self.mask_both, self.mask_xor = ops.RightShift(), ops.BitwiseAnd(), ops.BitwiseXor()
        self.index, self.by_key = ops.Add(), ops.BitwiseXor()
        self.first_times, self.last_times, self.add, self.reaches = ops.Mul(), ops.Mul(), ops.Add(), ops.GreaterEqual()
        self.ranks, self.is_sharded = 1, False

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """The mask of the whole batch's tensor, whose first axis is sharded over dp ranks: each rank makes its own rows."""
        self.ranks, self.is_sharded = dp, True
        rows = (dp, 1)
        for operator in (self.mask_shift, self.mask_both, self.first_times, self.last_times, self.add, self.reaches):
            operator.shard((rows, ()))
        self.mask_xor.shard((rows, rows))
        self.index.shard((rows, (1, 1)))
        self.by_key.shard((rows, ()))

    def xor_shift_15(self, x: Tensor) -> Tensor:
        return self.xor(x, self.both(self.shift(x, self.by_15), self.low_17))

    def xor_shift_16(self, x: Tensor) -> Tensor:
        return self.xor(x, self.both(self.shift(x, self.by_16), self.low_16))

    def mask_xor_shift_15(self, x: Tensor) -> Tensor:
        return self.mask_xor(x, self.mask_both(self.mask_shift(x, self.by_15), self.low_17))

    def mix(self, x: Tensor) -> Tensor:
        x = self.xor_shift_15(self.xor_shift_16(x) * self.multiplier_1)
        return self.xor_shift_15(x * self.multiplier_2)

    def before(self, offset: Tensor, count: int) -> Tensor:
        """Elements of the whole batch's tensor before this one's, () int32."""
        if count < 2**31:
            return offset[0] * self.divide(Tensor(count, ms.int32), offset[1])
        row = self.divide(Tensor(count, ms.int64), ops.cast(offset[1], ms.int64))
        return ops.cast(ops.cast(offset[0], ms.int64) * row, ms.int32)

    def lanes(self, shape: tuple[int, ...]) -> int:
        """Number of bits of a row of the mask: where the tensor's first axis is sharded, rows and axes must fall together."""
        if not self.is_sharded:
            return LANES
        lanes = 1
        for axis in (*shape[:0:-1], shape[0] // self.ranks):
            common = math.gcd(axis, LANES // lanes)
            lanes *= common
            if common != axis:
                break
        return lanes

    def hashes(self, step: Tensor, offset: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The hash of every element, int32: (rows, lanes), at least as many as the tensor's elements."""
        count, lanes = int(np.prod(shape)), self.lanes(shape)
        first = self.mix(self.key_0 + step * self.golden)
        second = self.mix(self.xor(first, self.key_1))
        # MindSpore folds a range into the graph as a constant: one as long as the tensor would be kept for every site.
        rows = -(-count // lanes)
        row = ops.reshape(ops.arange(0, rows, 1, dtype=ms.int32) * lanes, (rows, 1))
        if not self.is_sharded:
            row = row + self.before(offset, count)
        h = self.by_key(self.index(row, ops.reshape(ops.arange(0, lanes, 1, dtype=ms.int32), (1, lanes))), first)
        h = self.mask_xor(h, self.mask_both(self.mask_shift(h, self.by_16), self.low_16))
        h = self.mask_xor_shift_15(self.add(self.first_times(h, self.multiplier_1), second))
        return self.mask_xor_shift_15(self.last_times(h, self.multiplier_2))

    def construct(self, step: Tensor, offset: Tensor, shape: Tensor) -> Tensor:
        count = int(np.prod(shape))
        kept = ops.reshape(self.reaches(self.hashes(step, offset, shape), self.threshold), (-1,))
        return ops.reshape(kept if kept.shape[0] == count else kept[:count], shape)


class MaskProduct(ops.Mul):
    """x * mask. A strategy of one input is taken for both: nn.Dropout's operator, which this one stands for, is given no mask."""

    def __init__(self) -> None:
        # MindSpore would look for an operator with the name of the class.
        Primitive.__init__(self, "Mul")

    def shard(self, in_strategy: ShardStrategy | None = None, out_strategy: ShardStrategy | None = None) -> Cell:
        if in_strategy is not None and len(in_strategy) == 1:
            in_strategy = in_strategy * 2
        return super().shard(in_strategy, out_strategy)


class Dropout(fused.FusedCell):
    """x * keep / (1 - p) while training, x otherwise or for p = 0. `rows` False: x holds no rows of the batch.

    Source: Srivastava et al., JMLR 15 (2014), section 4, in the inverted form.
    Inputs: x, any shape, float16, bfloat16 or float32. Returns: the same shape and dtype.
    `dropout` is the multiplication by the mask: the operator to shard.
    """

    def __init__(self, p: float, seed: int, site: str, rows: bool = True) -> None:
        super().__init__()
        self.p = checked_rate(p)
        self.dropout, self.scaled = MaskProduct(), ops.Mul()
        self.keep = KeepMask(p, seed, site)
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.dropout, library)
        self.key = fused_key(p, seed, site)
        self.factor = Tensor([1.0 / (1.0 - p)], ms.float32)
        # Not an attribute in the cell's eyes: a shared counter must neither be renamed after the layer that
        # happens to hold it first nor appear among the model's parameters.
        object.__setattr__(self, "step", step_counter())
        object.__setattr__(self, "offset", batch_offset() if rows else no_offset())

    def construct(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if self.is_fused and x.dtype == ms.float32:
            return self.fused(x, self.step, self.offset, self.key, self.factor)
        mask = self.keep(self.step, self.offset, x.shape)
        return self.dropout(x, self.scaled(ops.cast(mask, x.dtype), 1.0 / (1.0 - self.p)))

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """`tokens`: (B, T, H) by rows of the batch; `wide`: (B, T, F), features over tp ranks as well; `row`: (M, F), the same; else
        (M, F) by rows."""
        self.keep.set_layout(how, dp, tp)
        whole = (dp, 1, 1) if how in ("tokens", "wide") else (dp, 1)
        self.scaled.shard((whole, ()))
        shards = (*whole[:-1], tp) if how in ("row", "wide") else whole
        self.dropout.shard((shards, shards))
