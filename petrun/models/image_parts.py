"""Define the parts that the U-Net and the autoencoder of pictures share: convolutions, group norm, residual blocks.

B batch, C channels, h and w height and width. Cells and parameters have the names that diffusers gives them.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from petrun.models.parts import Silu, dense
from petrun.typing import DType


class Conv(nn.Cell):
    """Convolution, in the dtype of x. `pad`: rows and columns of zeros at top, bottom, left and right; None: those that keep the size.

    Inputs: x (B, C_in, h, w). Returns: (B, C_out, h', w'). Owns: weight (C_out, C_in, size, size), bias (C_out,).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        size: int,
        dtype: DType,
        *,
        stride: int = 1,
        pad: tuple[int, int, int, int] | None = None,
    ) -> None:
        super().__init__()
        shape = (channels_out, channels_in, size, size)
        self.weight = Parameter(initializer("zeros", shape, dtype), name="weight")
        self.bias = Parameter(initializer("zeros", (channels_out,), dtype), name="bias")
        sides = pad if pad is not None else (size // 2,) * 4
        self.conv = ops.Conv2D(channels_out, size, pad_mode="pad", pad=sides, stride=stride)
        self.add = ops.BiasAdd()

    def construct(self, x: Tensor) -> Tensor:
        return self.add(self.conv(x, ops.cast(self.weight, x.dtype)), ops.cast(self.bias, x.dtype))


class GroupNorm(nn.Cell):
    """(x - mean) / sqrt(var + eps) * weight + bias; mean and biased variance of each group of C / groups channels, in float32.

    Source: Wu and He, arXiv:1803.08494, eq. (1) and (7).
    Inputs: x (B, C, h, w), float16, bfloat16 or float32. Returns: the same shape and dtype. Owns: weight (C,), bias (C,), float32.
    """

    def __init__(self, groups: int, channels: int, eps: float) -> None:
        super().__init__()
        self.groups, self.channels, self.eps = groups, channels, eps
        self.weight = Parameter(initializer("ones", (channels,), ms.float32), name="weight")
        self.bias = Parameter(initializer("zeros", (channels,), ms.float32), name="bias")

    def construct(self, x: Tensor) -> Tensor:
        flat = ops.reshape(ops.cast(x, ms.float32), (x.shape[0], self.groups, -1))
        centred = flat - ops.mean(flat, -1, True)
        scaled = centred * ops.rsqrt(ops.mean(centred * centred, -1, True) + self.eps)
        own = (1, self.channels, 1, 1)
        y = ops.reshape(scaled, x.shape) * ops.reshape(self.weight, own) + ops.reshape(self.bias, own)
        return ops.cast(y, x.dtype)


class ResnetBlock(nn.Cell):
    """shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + time_emb_proj(silu(time))))).

    Source: He et al., arXiv:1603.05027; Ho et al., arXiv:2006.11239, appendix B.
    Inputs: x (B, C_in, h, w); time (B, E), or None where `time_width` is 0. Returns: (B, C_out, h, w).
    The shortcut is a 1x1 convolution where the number of channels changes, else x itself.
    """

    def __init__(
        self, channels_in: int, channels_out: int, groups: int, eps: float, dtype: DType, time_width: int = 0
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, channels_in, eps)
        self.conv1 = Conv(channels_in, channels_out, 3, dtype)
        self.time_emb_proj = dense(time_width, channels_out, dtype) if time_width else None
        self.norm2 = GroupNorm(groups, channels_out, eps)
        self.conv2 = Conv(channels_out, channels_out, 3, dtype)
        self.conv_shortcut = Conv(channels_in, channels_out, 1, dtype) if channels_in != channels_out else None
        self.act = Silu()

    def construct(self, x: Tensor, time: Tensor = None) -> Tensor:
        y = self.conv1(self.act(self.norm1(x)))
        if self.time_emb_proj is not None:
            shift = self.time_emb_proj(self.act(time))
            y = y + ops.reshape(shift, (*shift.shape, 1, 1))
        y = self.conv2(self.act(self.norm2(y)))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return x + y


class Downsample(nn.Cell):
    """A 3x3 convolution of stride 2: (B, C, h, w) -> (B, C, h / 2, w / 2). `pad`: as Conv takes it."""

    def __init__(self, channels: int, dtype: DType, pad: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3, dtype, stride=2, pad=pad)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Cell):
    """Each pixel becomes four, then a 3x3 convolution: (B, C, h, w) -> (B, C, 2 h, 2 w)."""

    def __init__(self, channels: int, dtype: DType) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3, dtype)

    def construct(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        pixels = ops.tile(ops.reshape(x, (b, c, h, 1, w, 1)), (1, 1, 1, 2, 1, 2))
        return self.conv(ops.reshape(pixels, (b, c, 2 * h, 2 * w)))


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h * w, C)."""
    b, c, h, w = x.shape
    return ops.transpose(ops.reshape(x, (b, c, h * w)), (0, 2, 1))


def to_pixels(x: Tensor, height: int, width: int) -> Tensor:
    """(B, h * w, C) -> (B, C, h, w)."""
    b, _, c = x.shape
    return ops.reshape(ops.transpose(x, (0, 2, 1)), (b, c, height, width))
