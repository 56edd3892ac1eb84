"""The U-Net of a Stable-Diffusion pipeline: its config.json, names and sites.

Source: Rombach et al., arXiv:2112.10752; layout and names of diffusers' UNet2DConditionModel, defaults of its config. The net is held
against diffusers' numbers.
"""

from __future__ import annotations

from functools import lru_cache

from petrun.graph.sites import Sites
from petrun.models.base import Family, StoredName
from petrun.models.fields import Fields
from petrun.models.image_fields import SILU, block_types, one_per_block, require_known, widths
from petrun.models.parts import DTYPES, cell_paths, named
from petrun.models.unet_net import Unet, UnetConfig
from petrun.typing import Cell, JsonObject

_DOWN, _UP = ("CrossAttnDownBlock2D", "DownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
_FEED_FORWARD = {"geglu": "gelu", "geglu-approximate": "gelu_pytorch_tanh"}
_FIXED: dict[str, tuple[object, ...]] = {
    # What is not the first value changes what the net computes, and is not implemented.
    "act_fn": SILU,
    "addition_embed_type": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dropout": (0.0,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
_READ = (
    "attention_head_dim", "block_out_channels", "cross_attention_dim", "down_block_types", "feed_forward_type", "flip_sin_to_cos",
    "freq_shift", "in_channels", "layers_per_block", "norm_eps", "norm_num_groups", "out_channels", "transformer_layers_per_block",
    "up_block_types", "use_linear_projection",
)  # fmt: skip
_FREE = (
    "sample_size",
    # Without effect: the softmax is taken in float32 everywhere, and the last three belong to fields that must be null.
    "upcast_attention", "addition_embed_type_num_heads", "addition_time_embed_dim", "projection_class_embeddings_input_dim",
)  # fmt: skip


def parse(raw: JsonObject) -> UnetConfig:
    """Defaults are those of diffusers' UNet2DConditionModel. feed_forward_type, which diffusers has not, names the GELU of the gated
    feed-forward part: geglu (exact, diffusers' own), or geglu-approximate (the tanh form of Wukong-Huahua). Raises ModelError.
    """
    f = Fields(raw, "unet")
    require_known(f, _FIXED, _READ, _FREE)
    groups = f.integer("norm_num_groups", 32)
    channels = widths(f, "block_out_channels", (320, 640, 1280, 1280), groups)
    levels = len(channels)
    three = (levels - 1) if "down_block_types" not in raw or "up_block_types" not in raw else 0
    down = block_types(f, "down_block_types", [_DOWN[0]] * three + [_DOWN[1]], _DOWN, levels)
    up = block_types(f, "up_block_types", [_UP[1]] + [_UP[0]] * three, _UP, levels)
    heads = one_per_block(f, "attention_head_dim", 8, levels)
    for width, count in zip(channels, heads, strict=True):
        if width % count:
            f.wrong("attention_head_dim", list(heads), f"numbers of heads, of which {width} channels are a multiple")
    depth = one_per_block(f, "transformer_layers_per_block", 1, levels)
    blocks = f.integer("layers_per_block", 2)
    if channels[0] % 2:
        f.wrong("block_out_channels", list(channels), "even at its first level, which is the width of the time's waves")
    config = UnetConfig(
        vocab=0,
        hidden=f.integer("cross_attention_dim", 1280),
        layers=_attentions(down, up, depth, blocks),
        heads=heads[0],
        kv_heads=heads[0],
        wide=4 * channels[0],
        positions=None,
        channels_in=f.integer("in_channels", 4),
        channels_out=f.integer("out_channels", 4),
        widths=channels,
        down_attends=tuple(name == _DOWN[0] for name in down),
        up_attends=tuple(name == _UP[0] for name in up),
        heads_of=heads,
        depth=depth,
        blocks_per_level=blocks,
        groups=groups,
        eps=f.positive("norm_eps", 1e-5),
        linear_projection=f.flag("use_linear_projection", False),
        act=_FEED_FORWARD[f.choice("feed_forward_type", tuple(_FEED_FORWARD), "geglu")],
        cosine_first=f.flag("flip_sin_to_cos", True),
        frequency_shift=f.number("freq_shift", 0, below=channels[0] // 2),
        size=f.integer("sample_size", 64),
    )
    f.finish()
    return config


def _attentions(down: tuple[str, ...], up: tuple[str, ...], depth: tuple[int, ...], blocks: int) -> int:
    """Count the transformer blocks."""
    downs = sum(count * blocks for name, count in zip(down, depth, strict=True) if name == _DOWN[0])
    ups = sum(count * (blocks + 1) for name, count in zip(up, reversed(depth), strict=True) if name == _UP[0])
    return downs + depth[-1] + ups


def build(
    config: UnetConfig, *, compute_dtype: str = "float32", dropout_seed: int = 0, num_labels: int | None = None
) -> Cell:
    """Build the net, its parameters zeros named by their paths. It has no dropout and no head: the last two change nothing."""
    return named(Unet(config, DTYPES[compute_dtype]))


@lru_cache(maxsize=4)
def _paths(config: UnetConfig) -> tuple[str, ...]:
    return tuple(parameter.name for parameter in build(config).get_parameters())


def names(config: UnetConfig) -> dict[str, StoredName]:
    """Name every parameter as diffusers saves it, which is its path in the net."""
    return {path: StoredName(name=path) for path in _paths(config)}


def sites(config: UnetConfig) -> Sites:
    """Describe where deltas attach: the linear layers of the transformer blocks, by what they are for and by kind of attention."""
    block = "*.transformer_blocks.*"
    return Sites(
        linears={
            "q": f"{block}.to_q",
            "k": f"{block}.to_k",
            "v": f"{block}.to_v",
            "out": f"{block}.to_out.0",
            "ff": f"{block}.ff.net.*",
            "attn1": f"{block}.attn1.*",
            "attn2": f"{block}.attn2.*",
        },
        default_roles=("q", "k", "v", "out"),
        hf_paths=cell_paths(names(config)),
        hidden=config.hidden,
    )


FAMILY = Family(
    name="unet",
    hf_classes={"unet": "UNet2DConditionModel"},
    tasks=("image",),
    inputs=("latents", "timesteps", "states"),
    parse=parse,
    build=build,
    sites=sites,
    names=names,
)
