"""The U-Net that predicts noise: down, middle and up blocks, with self-attention and cross-attention to the states of a text.

Source: Rombach et al., arXiv:2112.10752, section 3 and appendix E; layout and names of diffusers' UNet2DConditionModel.
B batch, C channels, h and w height and width, T tokens of the text, S width of its states, E width of the time's embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from petrun.kernels import Attention, LayerNorm, MergeHeads, SplitHeads
from petrun.models.base import FamilyConfig
from petrun.models.image_parts import Conv, Downsample, GroupNorm, ResnetBlock, Upsample, to_pixels, to_tokens
from petrun.models.parts import Silu, activation, dense
from petrun.typing import DType

_LAYER_NORM_EPS, _GROUP_NORM_EPS = 1e-5, 1e-6
"""Of the transformer blocks; diffusers has no field for them."""
_NOTHING: tuple[Tensor, ...] = ()


@dataclass(frozen=True, kw_only=True)
class UnetConfig(FamilyConfig):
    """config.json of a U-Net. `layers` are its transformer blocks; `hidden` is the width of the text's states."""

    channels_in: int
    channels_out: int
    widths: tuple[int, ...]
    """Channels of each level, from the finest."""
    down_attends: tuple[bool, ...]
    up_attends: tuple[bool, ...]
    """Whether the blocks of a level have attention; the up blocks from the coarsest level."""
    heads_of: tuple[int, ...]
    """Attention heads of each level."""
    depth: tuple[int, ...]
    """Transformer blocks of each attention, by level."""
    blocks_per_level: int
    groups: int
    eps: float
    linear_projection: bool
    act: str
    """The feed-forward part's GELU: a name of petrun.models.parts.ACTIVATIONS."""
    cosine_first: bool
    frequency_shift: float
    size: int
    """Height and width of the latents that it was trained on."""


class TimeEmbedding(nn.Cell):
    """linear_2(silu(linear_1([cos(t w), sin(t w)]))), w_i = 10000^(-i / (half - shift)), sine first unless `cosine_first`.

    Source: Ho et al., arXiv:2006.11239, appendix B. Inputs: t (B,), int32 or float32. Returns: (B, E) in the dtype it was built with.
    """

    def __init__(self, c: UnetConfig, dtype: DType) -> None:
        super().__init__()
        width, half = c.widths[0], c.widths[0] // 2
        rates = np.exp(-math.log(10000.0) * np.arange(half) / (half - c.frequency_shift))
        self.rates = Tensor(rates.reshape(1, -1), ms.float32)
        self.cosine_first, self.dtype = c.cosine_first, dtype
        self.linear_1 = dense(width, 4 * width, dtype)
        self.linear_2 = dense(4 * width, 4 * width, dtype)
        self.act = Silu()

    def construct(self, t: Tensor) -> Tensor:
        angles = ops.reshape(ops.cast(t, ms.float32), (-1, 1)) * self.rates
        sine, cosine = ops.sin(angles), ops.cos(angles)
        waves = ops.concat((cosine, sine) if self.cosine_first else (sine, cosine), 1)
        return self.linear_2(self.act(self.linear_1(ops.cast(waves, self.dtype))))


class PixelAttention(nn.Cell):
    """to_out(attention of the pixels to `source`): x (B, h * w, C), source (B, T, S) -> (B, h * w, C). Queries have no bias."""

    def __init__(self, width: int, source: int, heads: int, dtype: DType) -> None:
        super().__init__()
        head = width // heads
        self.to_q = dense(width, width, dtype, bias=False)
        self.to_k = dense(source, width, dtype, bias=False)
        self.to_v = dense(source, width, dtype, bias=False)
        self.to_out = nn.CellList([dense(width, width, dtype)])
        self.split, self.merge = SplitHeads(head), MergeHeads(head)
        self.core = Attention(head**-0.5, heads=heads)
        self.all_visible = Tensor(np.ones((1, 1, 1, 1), bool))

    def construct(self, x: Tensor, source: Tensor) -> Tensor:
        q, k, v = self.split(self.to_q(x)), self.split(self.to_k(source)), self.split(self.to_v(source))
        return self.to_out[0](self.merge(self.core(q, k, v, self.all_visible)))


class GatedGelu(nn.Cell):
    """a * gelu(b), [a, b] = proj x: (B, T, C) -> (B, T, 4 C). Source: Shazeer, arXiv:2002.05202, eq. (6)."""

    def __init__(self, width: int, act: str, dtype: DType) -> None:
        super().__init__()
        self.proj = dense(width, 8 * width, dtype)
        self.halves, self.act = ops.Split(-1, 2), activation(act)

    def construct(self, x: Tensor) -> Tensor:
        value, gate = self.halves(self.proj(x))
        return value * self.act(gate)


class Unchanged(nn.Cell):
    """x itself: stands where diffusers has a dropout, so that the cells after it have its numbers."""

    def construct(self, x: Tensor) -> Tensor:
        return x


class PixelFeedForward(nn.Cell):
    """net.2(net.0(x)), (B, T, C) -> (B, T, C)."""

    def __init__(self, width: int, act: str, dtype: DType) -> None:
        super().__init__()
        self.net = nn.CellList([GatedGelu(width, act, dtype), Unchanged(), dense(4 * width, width, dtype)])

    def construct(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class PixelBlock(nn.Cell):
    """x + attn1(norm1(x)), then x + attn2(norm2(x), states), then x + ff(norm3(x)): (B, h * w, C) -> (B, h * w, C)."""

    def __init__(self, c: UnetConfig, level: int, dtype: DType) -> None:
        super().__init__()
        width, heads = c.widths[level], c.heads_of[level]
        self.norm1 = LayerNorm(width, _LAYER_NORM_EPS)
        self.attn1 = PixelAttention(width, width, heads, dtype)
        self.norm2 = LayerNorm(width, _LAYER_NORM_EPS)
        self.attn2 = PixelAttention(width, c.hidden, heads, dtype)
        self.norm3 = LayerNorm(width, _LAYER_NORM_EPS)
        self.ff = PixelFeedForward(width, c.act, dtype)

    def construct(self, x: Tensor, states: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        x = x + self.attn2(self.norm2(x), states)
        return x + self.ff(self.norm3(x))


class PixelTransformer(nn.Cell):
    """x + proj_out(blocks(proj_in(norm(x)))), (B, C, h, w) -> (B, C, h, w); the projections are 1x1 convolutions or linear layers."""

    def __init__(self, c: UnetConfig, level: int, dtype: DType) -> None:
        super().__init__()
        width = c.widths[level]
        self.is_linear = c.linear_projection
        self.norm = GroupNorm(c.groups, width, _GROUP_NORM_EPS)
        self.proj_in = dense(width, width, dtype) if self.is_linear else Conv(width, width, 1, dtype)
        self.transformer_blocks = nn.CellList([PixelBlock(c, level, dtype) for _ in range(c.depth[level])])
        self.proj_out = dense(width, width, dtype) if self.is_linear else Conv(width, width, 1, dtype)

    def construct(self, x: Tensor, states: Tensor) -> Tensor:
        _, _, h, w = x.shape
        y = self.norm(x)
        y = self.proj_in(to_tokens(y)) if self.is_linear else to_tokens(self.proj_in(y))
        for block in self.transformer_blocks:
            y = block(y, states)
        return x + (to_pixels(self.proj_out(y), h, w) if self.is_linear else self.proj_out(to_pixels(y, h, w)))


class DownBlock(nn.Cell):
    """Residual blocks, each followed by attention where the level has it, then half the size unless it is the last level.

    Inputs: x (B, C_in, h, w), time (B, E), states (B, T, S). Returns: the result, and all that the up blocks read again.
    """

    def __init__(self, c: UnetConfig, level: int, dtype: DType) -> None:
        super().__init__()
        width, before = c.widths[level], c.widths[max(level - 1, 0)]
        blocks = range(c.blocks_per_level)
        self.resnets = nn.CellList([_resnet(c, width if i else before, width, dtype) for i in blocks])
        self.attends = c.down_attends[level]
        if self.attends:
            self.attentions = nn.CellList([PixelTransformer(c, level, dtype) for _ in blocks])
        self.shrinks = level < len(c.widths) - 1
        if self.shrinks:
            self.downsamplers = nn.CellList([Downsample(width, dtype, (1, 1, 1, 1))])

    def construct(self, x: Tensor, time: Tensor, states: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        found = _NOTHING
        for i in range(len(self.resnets)):
            x = self.resnets[i](x, time)
            if self.attends:
                x = self.attentions[i](x, states)
            found = (*found, x)
        if self.shrinks:
            x = self.downsamplers[0](x)
            found = (*found, x)
        return x, found


class MiddleBlock(nn.Cell):
    """A residual block, attention, a residual block, on the coarsest level: (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, c: UnetConfig, dtype: DType) -> None:
        super().__init__()
        width, level = c.widths[-1], len(c.widths) - 1
        self.resnets = nn.CellList([_resnet(c, width, width, dtype) for _ in range(2)])
        self.attentions = nn.CellList([PixelTransformer(c, level, dtype)])

    def construct(self, x: Tensor, time: Tensor, states: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, time), states), time)


class UpBlock(nn.Cell):
    """Residual blocks that each read x beside what a down block left, with attention after them, then twice the size.

    Inputs: x (B, C_in, h, w), `left` of the down blocks, the last first; time (B, E), states (B, T, S). Returns: (B, C_out, 2 h, 2 w);
    on the finest level (B, C_out, h, w).
    """

    def __init__(self, c: UnetConfig, number: int, dtype: DType) -> None:
        super().__init__()
        level = len(c.widths) - 1 - number
        width, before, finer = c.widths[level], c.widths[min(level + 1, len(c.widths) - 1)], c.widths[max(level - 1, 0)]
        blocks = range(c.blocks_per_level + 1)
        last = c.blocks_per_level
        # The last block of a level reads what came into the level.
        self.resnets = nn.CellList(
            [_resnet(c, (width if i else before) + (finer if i == last else width), width, dtype) for i in blocks]
        )
        self.attends = c.up_attends[number]
        if self.attends:
            self.attentions = nn.CellList([PixelTransformer(c, level, dtype) for _ in blocks])
        self.grows = level > 0
        if self.grows:
            self.upsamplers = nn.CellList([Upsample(width, dtype)])

    def construct(self, x: Tensor, left: tuple[Tensor, ...], time: Tensor, states: Tensor) -> Tensor:
        for i in range(len(self.resnets)):
            x = self.resnets[i](ops.concat((x, left[i]), 1), time)
            if self.attends:
                x = self.attentions[i](x, states)
        return self.upsamplers[0](x) if self.grows else x


def _resnet(c: UnetConfig, channels_in: int, channels_out: int, dtype: DType) -> ResnetBlock:
    return ResnetBlock(channels_in, channels_out, c.groups, c.eps, dtype, 4 * c.widths[0])


class Unet(nn.Cell):
    """What the noise of a latent is, or its velocity, by the step of the noise and the states of a text.

    Inputs: latents (B, C_in, h, w), any float dtype, h and w multiples of 2^(levels - 1); timesteps (B,), int32 or float32; states
    (B, T, S). Returns: (B, C_out, h, w) float32.
    """

    def __init__(self, c: UnetConfig, dtype: DType) -> None:
        super().__init__()
        levels = range(len(c.widths))
        self.dtype, self.left_per_level = dtype, c.blocks_per_level + 1
        self.conv_in = Conv(c.channels_in, c.widths[0], 3, dtype)
        self.time_embedding = TimeEmbedding(c, dtype)
        self.down_blocks = nn.CellList([DownBlock(c, level, dtype) for level in levels])
        self.mid_block = MiddleBlock(c, dtype)
        self.up_blocks = nn.CellList([UpBlock(c, number, dtype) for number in levels])
        self.conv_norm_out = GroupNorm(c.groups, c.widths[0], c.eps)
        self.act = Silu()
        self.conv_out = Conv(c.widths[0], c.channels_out, 3, dtype)

    def construct(self, latents: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        time, states = self.time_embedding(timesteps), ops.cast(states, self.dtype)
        x = self.conv_in(ops.cast(latents, self.dtype))
        left = (x,)
        for block in self.down_blocks:
            x, found = block(x, time, states)
            left = (*left, *found)
        x = self.mid_block(x, time, states)
        left = left[::-1]
        for i in range(len(self.up_blocks)):
            x = self.up_blocks[i](x, left[i * self.left_per_level : (i + 1) * self.left_per_level], time, states)
        return ops.cast(self.conv_out(self.act(self.conv_norm_out(x))), ms.float32)
