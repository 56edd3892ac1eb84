"""Element-wise activations of the feed-forward layers."""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import mint, nn, ops

from petrun.kernels import fused, native
from petrun.kernels.device import on_ascend
from petrun.typing import Tensor


class Tanh(fused.FusedCell):
    """tanh(x), to 1e-6: MindSpore's own on the CPU is off by up to 1e-4.

    Inputs: x, any shape, float16, bfloat16 or float32. Returns: the same shape and dtype.
    """

    def __init__(self) -> None:
        super().__init__()
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.tanh, library)
        self.on_ascend = on_ascend()
        self.primitive = ops.Tanh()

    def construct(self, x: Tensor) -> Tensor:
        if self.is_fused and x.dtype == ms.float32:
            return self.fused(x)
        if self.on_ascend:
            return self.primitive(x)
        return 2.0 * ops.sigmoid(2.0 * x) - 1.0

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """(B, H) by rows of the batch; `heads`: (B, N, T, S), heads over tp ranks; `wide`: (B, T, F), features over tp ranks."""
        own = {"heads": (dp, tp, 1, 1), "wide": (dp, 1, tp)}.get(how, (dp, 1))
        self.primitive.shard((own,))


class Gelu(fused.FusedCell):
    """GELU, exact: x * Phi(x) = x/2 * (1 + erf(x / sqrt(2))).

    Source: Hendrycks and Gimpel, arXiv:1606.08415, eq. (1).
    Inputs: x, any shape, float16, bfloat16 or float32. Returns: the same shape and dtype.
    """

    def __init__(self) -> None:
        super().__init__()
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.gelu, library)
        self.on_ascend = on_ascend()
        self.is_sharded = False
        self.scale, self.half, self.times, self.add, self.erf = ops.Mul(), ops.Mul(), ops.Mul(), ops.Add(), ops.Erf()

    def construct(self, x: Tensor) -> Tensor:
        if self.on_ascend and not self.is_sharded:
            return mint.nn.functional.gelu(x)
        # In half precision 1 + erf(x) keeps almost nothing of a negative x.
        wide = ops.cast(x, ms.float32)
        if self.is_fused:
            return ops.cast(self.fused(wide), x.dtype)
        normal = self.add(self.erf(self.scale(wide, math.sqrt(0.5))), 1.0)
        return ops.cast(self.times(self.half(wide, 0.5), normal), x.dtype)

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """(B, T, F): features over tp ranks. MindSpore's single operator cannot be sharded."""
        wide = (dp, 1, tp)
        for operator in (self.scale, self.half, self.add):
            operator.shard((wide, ()))
        self.erf.shard((wide,))
        self.times.shard((wide, wide))
        self.is_sharded = True


class GeluTanh(fused.FusedCell):
    """GELU, tanh form: x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))).

    Source: Hendrycks and Gimpel, arXiv:1606.08415, section 2; "gelu_new" of GPT-2.
    Inputs: x, any shape, float16, bfloat16 or float32. Returns: the same shape and dtype.
    """

    def __init__(self) -> None:
        super().__init__()
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.gelu_tanh, library)
        self.on_ascend = on_ascend()
        self.is_sharded = False
        self.primitive = ops.GeLU()

    def construct(self, x: Tensor) -> Tensor:
        if self.is_sharded:
            return self.primitive(x)
        if self.on_ascend:
            return mint.nn.functional.gelu(x, approximate="tanh")
        wide = ops.cast(x, ms.float32)
        if self.is_fused:
            return ops.cast(self.fused(wide), x.dtype)
        # The same number as with tanh, whose kernel on the CPU is off by up to 1e-4.
        inner = math.sqrt(8.0 / math.pi) * (wide + 0.044715 * (wide * wide * wide))
        return ops.cast(wide * ops.sigmoid(inner), x.dtype)

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """(B, T, F): features over tp ranks. The operator that mint calls cannot be sharded; this one is the same formula."""
        self.primitive.shard(((dp, 1, tp),))
        self.is_sharded = True


class SoftCap(nn.Cell):
    """cap * tanh(x / cap), any shape and float dtype: bent to stay within the cap."""

    def __init__(self, cap: float) -> None:
        super().__init__()
        self.cap = cap
        self.shrink, self.tanh, self.grow = ops.Mul(), Tanh(), ops.Mul()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """`heads`: (B, N, T, S), heads over tp ranks; else `wide`: (B, T, F), features over tp ranks."""
        how = "heads" if how == "heads" else "wide"
        own = (dp, tp, 1, 1) if how == "heads" else (dp, 1, tp)
        self.shrink.shard((own, ()))
        self.tanh.set_layout(how, dp, tp)
        self.grow.shard((own, ()))

    def construct(self, x: Tensor) -> Tensor:
        return self.grow(self.tanh(self.shrink(x, 1.0 / self.cap)), self.cap)


class SiluMul(fused.FusedCell):
    """silu(gate) * up, silu(x) = x * sigmoid(x).

    Source: Shazeer, arXiv:2002.05202, eq. (6) (SwiGLU).
    Inputs: gate and up, one shape, float16, bfloat16 or float32. Returns: the same shape and dtype.
    """

    def __init__(self) -> None:
        super().__init__()
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.silu_mul, library)
        self.sigmoid, self.gated, self.times = ops.Sigmoid(), ops.Mul(), ops.Mul()

    def construct(self, gate: Tensor, up: Tensor) -> Tensor:
        if self.is_fused and gate.dtype == ms.float32 and up.dtype == ms.float32:
            return self.fused(gate, up)
        wide = ops.cast(gate, ms.float32)
        return self.times(ops.cast(self.gated(wide, self.sigmoid(wide)), gate.dtype), up)

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """(B, T, F): features over tp ranks."""
        wide = (dp, 1, tp)
        self.sigmoid.shard((wide,))
        self.gated.shard((wide, wide))
        self.times.shard((wide, wide))
