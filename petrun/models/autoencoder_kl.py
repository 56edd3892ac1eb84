"""The autoencoder of a Stable-Diffusion pipeline: pictures to latents of an eighth of their height and width, and back.

Source: Kingma and Welling, arXiv:1312.6114; Rombach et al., arXiv:2112.10752, section 3.1; layout and names of diffusers' AutoencoderKL,
defaults of its config. The net is held against diffusers' numbers.
B batch, C channels, h and w height and width, Z channels of the latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from petrun.graph.sites import Sites
from petrun.kernels import Attention
from petrun.models.base import Family, FamilyConfig, StoredName
from petrun.models.fields import Fields
from petrun.models.image_fields import SILU, block_types, require_known, widths
from petrun.models.image_parts import Conv, Downsample, GroupNorm, ResnetBlock, Upsample, to_pixels, to_tokens
from petrun.models.parts import DTYPES, Silu, dense, named
from petrun.typing import Cell, DType, JsonObject

_EPS = 1e-6
"""Of every group norm; diffusers has no field for it."""
_LEAST_LOG_VARIANCE, _MOST_LOG_VARIANCE = -30.0, 20.0
_FIXED: dict[str, tuple[object, ...]] = {
    "act_fn": SILU,
    "latents_mean": (None,),
    "latents_std": (None,),
    "shift_factor": (None, 0.0),
    "use_post_quant_conv": (True,),
    "use_quant_conv": (True,),
}
_READ = (
    "block_out_channels", "down_block_types", "in_channels", "latent_channels", "layers_per_block", "mid_block_add_attention",
    "norm_num_groups", "out_channels", "scaling_factor", "up_block_types",
)  # fmt: skip
_FREE = ("sample_size", "force_upcast")
"""Without effect: the size is that of the pictures, and the net is computed in float32."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(FamilyConfig):
    """config.json of an autoencoder. `layers` are its levels."""

    channels: int
    """Of a picture."""
    latents: int
    widths: tuple[int, ...]
    """Channels of each level, from the finest."""
    blocks_per_level: int
    groups: int
    attends: bool
    """Whether the coarsest level has attention."""
    scaling: float
    """What latents are multiplied by before the U-Net reads them."""

    @property
    def factor(self) -> int:
        """Pixels of a picture's side for each of its latent's."""
        return 2 ** (len(self.widths) - 1)


def parse(raw: JsonObject) -> AutoencoderConfig:
    """Raises ModelError."""
    f = Fields(raw, "autoencoder_kl")
    require_known(f, _FIXED, _READ, _FREE)
    groups = f.integer("norm_num_groups", 32)
    channels = widths(f, "block_out_channels", (64,) if groups == 32 else (groups,), groups)
    levels = len(channels)
    block_types(f, "down_block_types", ["DownEncoderBlock2D"], ("DownEncoderBlock2D",), levels)
    block_types(f, "up_block_types", ["UpDecoderBlock2D"], ("UpDecoderBlock2D",), levels)
    read = f.integer("in_channels", 3)
    if f.integer("out_channels", 3) != read:
        f.wrong("out_channels", raw.get("out_channels", 3), f"in_channels = {read}")
    config = AutoencoderConfig(
        vocab=0,
        hidden=channels[-1],
        layers=levels,
        heads=1,
        kv_heads=1,
        wide=channels[-1],
        positions=None,
        channels=read,
        latents=f.integer("latent_channels", 4),
        widths=channels,
        blocks_per_level=f.integer("layers_per_block", 1),
        groups=groups,
        attends=f.flag("mid_block_add_attention", True),
        scaling=f.positive("scaling_factor", 0.18215),
    )
    f.finish()
    return config


class WholeAttention(nn.Cell):
    """x + to_out(attention of all pixels to all, with one head), after a group norm: (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, c: AutoencoderConfig, dtype: DType) -> None:
        super().__init__()
        width = c.widths[-1]
        self.group_norm = GroupNorm(c.groups, width, _EPS)
        self.to_q, self.to_k, self.to_v = (dense(width, width, dtype) for _ in range(3))
        self.to_out = nn.CellList([dense(width, width, dtype)])
        self.core = Attention(width**-0.5, heads=1)
        self.all_visible = Tensor(np.ones((1, 1, 1, 1), bool))

    def construct(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = to_tokens(self.group_norm(x))
        one_head = (b, 1, h * w, c)
        q, k, v = (
            ops.reshape(self.to_q(y), one_head),
            ops.reshape(self.to_k(y), one_head),
            ops.reshape(self.to_v(y), one_head),
        )
        y = ops.reshape(self.core(q, k, v, self.all_visible), (b, h * w, c))
        return x + to_pixels(self.to_out[0](y), h, w)


class Middle(nn.Cell):
    """A residual block, attention where the config has it, a residual block: (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, c: AutoencoderConfig, dtype: DType) -> None:
        super().__init__()
        width = c.widths[-1]
        self.resnets = nn.CellList([ResnetBlock(width, width, c.groups, _EPS, dtype) for _ in range(2)])
        self.attends = c.attends
        if c.attends:
            self.attentions = nn.CellList([WholeAttention(c, dtype)])

    def construct(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        if self.attends:
            x = self.attentions[0](x)
        return self.resnets[1](x)


class Level(nn.Cell):
    """Residual blocks of one level, then half the size (`downsamplers`) or twice (`upsamplers`), or neither."""

    def __init__(self, c: AutoencoderConfig, widths: tuple[int, int], blocks: int, dtype: DType, then: str) -> None:
        super().__init__()
        before, width = widths
        self.resnets = nn.CellList(
            [ResnetBlock(width if i else before, width, c.groups, _EPS, dtype) for i in range(blocks)]
        )
        self.then = then
        if then == "half":
            # One row and one column of zeros, below and on the right.
            self.downsamplers = nn.CellList([Downsample(width, dtype, (0, 1, 0, 1))])
        if then == "twice":
            self.upsamplers = nn.CellList([Upsample(width, dtype)])

    def construct(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        if self.then == "half":
            x = self.downsamplers[0](x)
        if self.then == "twice":
            x = self.upsamplers[0](x)
        return x


class Encoder(nn.Cell):
    """(B, channels, h, w) -> (B, 2 Z, h / factor, w / factor)."""

    def __init__(self, c: AutoencoderConfig, dtype: DType) -> None:
        super().__init__()
        last = len(c.widths) - 1
        pairs = [(c.widths[max(i - 1, 0)], width) for i, width in enumerate(c.widths)]
        self.conv_in = Conv(c.channels, c.widths[0], 3, dtype)
        self.down_blocks = nn.CellList(
            [Level(c, pair, c.blocks_per_level, dtype, "half" if i < last else "") for i, pair in enumerate(pairs)]
        )
        self.mid_block = Middle(c, dtype)
        self.conv_norm_out = GroupNorm(c.groups, c.widths[-1], _EPS)
        self.act = Silu()
        self.conv_out = Conv(c.widths[-1], 2 * c.latents, 3, dtype)

    def construct(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(self.act(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Cell):
    """(B, Z, h, w) -> (B, channels, factor h, factor w)."""

    def __init__(self, c: AutoencoderConfig, dtype: DType) -> None:
        super().__init__()
        last, turned = len(c.widths) - 1, c.widths[::-1]
        pairs = [(turned[max(i - 1, 0)], width) for i, width in enumerate(turned)]
        self.conv_in = Conv(c.latents, c.widths[-1], 3, dtype)
        self.up_blocks = nn.CellList(
            [Level(c, pair, c.blocks_per_level + 1, dtype, "twice" if i < last else "") for i, pair in enumerate(pairs)]
        )
        self.mid_block = Middle(c, dtype)
        self.conv_norm_out = GroupNorm(c.groups, c.widths[0], _EPS)
        self.act = Silu()
        self.conv_out = Conv(c.widths[0], c.channels, 3, dtype)

    def construct(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(self.act(self.conv_norm_out(x)))


class Autoencoder(nn.Cell):
    """Pictures to the mean and deviation of their latents (`construct`), and latents to pictures (`decode`).

    Pictures are (B, channels, h, w) float32 in [-1, 1]; h and w multiples of the config's factor. Latents are as the autoencoder has them:
    what the U-Net reads is `scaling` times as large.
    """

    def __init__(self, c: AutoencoderConfig, dtype: DType) -> None:
        super().__init__()
        self.dtype = dtype
        self.encoder, self.decoder = Encoder(c, dtype), Decoder(c, dtype)
        self.quant_conv = Conv(2 * c.latents, 2 * c.latents, 1, dtype)
        self.post_quant_conv = Conv(c.latents, c.latents, 1, dtype)
        self.halves = ops.Split(1, 2)

    def construct(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, h, w) -> mean and standard deviation, (B, Z, h / factor, w / factor) float32 each."""
        found = self.quant_conv(self.encoder(ops.cast(pictures, self.dtype)))
        mean, log_variance = self.halves(ops.cast(found, ms.float32))
        bounded = ops.clamp(log_variance, _LEAST_LOG_VARIANCE, _MOST_LOG_VARIANCE)
        return mean, ops.exp(0.5 * bounded)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, Z, h, w) -> (B, channels, factor h, factor w) float32."""
        return ops.cast(self.decoder(self.post_quant_conv(ops.cast(latents, self.dtype))), ms.float32)


def build(
    config: AutoencoderConfig, *, compute_dtype: str = "float32", dropout_seed: int = 0, num_labels: int | None = None
) -> Cell:
    """Build the net, its parameters zeros named by their paths. It has no dropout and no head: the last two change nothing."""
    return named(Autoencoder(config, DTYPES[compute_dtype]))


@lru_cache(maxsize=4)
def _paths(config: AutoencoderConfig) -> tuple[str, ...]:
    return tuple(parameter.name for parameter in build(config).get_parameters())


_EARLIER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""Layers of the attention by the names of diffusers before 0.17, which the files of Stable Diffusion 1.x have."""


def names(config: AutoencoderConfig) -> dict[str, StoredName]:
    """Name every parameter as diffusers saves it, which is its path in the net."""
    return {path: StoredName(name=path, also=_earlier(path)) for path in _paths(config)}


def _earlier(path: str) -> dict[str, str]:
    layer, _, leaf = path.rpartition(".")
    found = [(new, old) for new, old in _EARLIER.items() if ".attentions." in layer and layer.endswith(f".{new}")]
    return {f"{layer.removesuffix(new)}{old}.{leaf}": "" for new, old in found}


def sites(config: AutoencoderConfig) -> Sites:
    """No delta attaches to it."""
    return Sites()


FAMILY = Family(
    name="autoencoder_kl",
    hf_classes={"autoencoder_kl": "AutoencoderKL"},
    tasks=(),
    inputs=("pictures",),
    parse=parse,
    build=build,
    sites=sites,
    names=names,
)
