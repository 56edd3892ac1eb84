"""Normalisation over the last axis, and a scale of it alone. Statistics are taken in float32 whatever the input."""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, ops
from mindspore.common.initializer import initializer

from petrun.kernels import fused, native
from petrun.kernels.device import on_ascend
from petrun.typing import ShardStrategy


class LayerNorm(fused.FusedCell):
    """(x - mean) / sqrt(var + eps) * weight + bias, over the last axis; var is the biased variance.

    With `residual`, of x + residual: one pass instead of two.
    Source: Ba et al., arXiv:1607.06450, eq. (4).
    Inputs: x (..., H), float16, bfloat16 or float32; residual, the same shape and dtype, or None.
    Returns: the same shape and dtype.
    Owns: weight (H,), bias (H,), float32.
    """

    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.eps_tensor = Tensor([eps], ms.float32)
        self.weight = Parameter(initializer("ones", (hidden,), ms.float32), name="weight")
        self.bias = Parameter(initializer("zeros", (hidden,), ms.float32), name="bias")
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.layer_norm, library)
        self.fused_add = fused.if_built(fused.add_layer_norm, library)
        self.on_ascend = on_ascend()
        self.primitive = ops.LayerNorm(-1, -1, eps)
        self.add = ops.Add()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """`tokens`: (B, T, H) by rows of the batch."""
        self.primitive.shard(((dp, 1, 1), (1,), (1,)))
        self.add.shard(((dp, 1, 1), (dp, 1, 1)))

    def construct(self, x: Tensor, residual: Tensor = None) -> Tensor:
        if self.is_fused and x.dtype == ms.float32 and self.weight.dtype == ms.float32:
            if residual is None:
                return self.fused(x, self.weight, self.bias, self.eps_tensor)
            return self.fused_add(x, residual, self.weight, self.bias, self.eps_tensor)[0]
        if residual is not None:
            x = self.add(x, residual)
        wide = ops.cast(x, ms.float32)
        if self.on_ascend:
            return ops.cast(self.primitive(wide, self.weight, self.bias)[0], x.dtype)
        centred = wide - ops.mean(wide, -1, True)
        scale = ops.rsqrt(ops.mean(centred * centred, -1, True) + self.eps)
        return ops.cast(centred * scale * self.weight + self.bias, x.dtype)


class RmsNorm(fused.FusedCell):
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis.

    Source: Zhang and Sennrich, arXiv:1910.07467, eq. (4).
    Inputs: x (..., H), float16, bfloat16 or float32. Returns: the same shape and dtype.
    Owns: weight (H,), float32.
    """

    splits_tokens = True

    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.eps_tensor = Tensor([eps], ms.float32)
        self.weight = Parameter(initializer("ones", (hidden,), ms.float32), name="weight")
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.rms_norm, library)
        self.on_ascend = on_ascend()
        self.primitive = ops.RmsNorm(eps)
        self.width, self.flat = hidden, False

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """`tokens`: (B, T, H) by rows of the batch; `heads`: (B, N, T, D) by heads as well; `stream`: B * T over all ranks."""
        self.flat = how == "stream"
        rows = {"heads": (dp, tp, 1, 1), "stream": (dp * tp, 1)}.get(how, (dp, 1, 1))
        self.primitive.shard((rows, (1,)))

    def construct(self, x: Tensor) -> Tensor:
        if self.is_fused and x.dtype == ms.float32 and self.weight.dtype == ms.float32:
            return self.fused(x, self.weight, self.eps_tensor)
        if self.flat:
            wide = ops.cast(ops.reshape(x, (-1, self.width)), ms.float32)
            return ops.reshape(ops.cast(self.primitive(wide, self.weight)[0], x.dtype), x.shape)
        wide = ops.cast(x, ms.float32)
        if self.on_ascend:
            return ops.cast(self.primitive(wide, self.weight)[0], x.dtype)
        scale = ops.rsqrt(ops.mean(wide * wide, -1, True) + self.eps)
        return ops.cast(wide * scale * self.weight, x.dtype)


class OffsetRmsNorm(RmsNorm):
    """x / sqrt(mean(x^2) + eps) * (1 + weight), over the last axis; else as RmsNorm.

    Source: Gemma team, arXiv:2403.08295, whose weights are stored less 1. A class of its own: a condition in every norm of every model
    would be compiled with each.
    """

    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__(hidden, eps)
        self.plus = ops.Add()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """As RmsNorm's; the weight is whole on each rank."""
        super().set_layout(how, dp, tp)
        self.plus.shard(((1,), ()))

    def construct(self, x: Tensor) -> Tensor:
        weight = self.plus(self.weight, 1.0)
        if self.is_fused and x.dtype == ms.float32 and self.weight.dtype == ms.float32:
            return self.fused(x, weight, self.eps_tensor)
        wide = ops.cast(ops.reshape(x, (-1, self.width)) if self.flat else x, ms.float32)
        if self.on_ascend or self.flat:
            return ops.reshape(ops.cast(self.primitive(wide, weight)[0], x.dtype), x.shape)
        scale = ops.rsqrt(ops.mean(wide * wide, -1, True) + self.eps)
        return ops.cast(wide * scale * weight, x.dtype)


class ScaleColumns(fused.FusedCell):
    """x * scale, one factor for each column; both train.

    MindSpore's product keeps what the factor's gradient needs until after the whole backward pass: on the CPU its operators run
    when their inputs are there, and nothing waits for that gradient but the update.
    Inputs: x (..., H) float32; scale (H,) float32. Returns: (..., H) float32.
    """

    def __init__(self) -> None:
        super().__init__()
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.scale_columns, library)
        self.primitive = ops.Mul()

    def split(self, strategy: ShardStrategy) -> None:
        """Split the product over devices, as `Primitive.shard` takes it."""
        self.primitive.shard(strategy)

    def construct(self, x: Tensor, scale: Tensor) -> Tensor:
        if self.is_fused and x.dtype == ms.float32 and scale.dtype == ms.float32:
            return self.fused(x, scale)
        return self.primitive(x, scale)
