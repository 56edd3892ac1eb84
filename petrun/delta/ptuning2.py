"""P-tuning v2: a table of learned keys and values before those of every attention layer (deep prompts).

    [K_l | V_l] = T_l                                    T_l (P, 2 N_kv D), the default
    [K_l | V_l] = tanh(E W_1^T + b_1) W_2,l^T + b_2,l    with `projection`

Source: Liu et al., "P-Tuning v2: Prompt Tuning Can Be Comparable to Fine-tuning Universally Across Scales and Tasks",
arXiv 2110.07602, section 3.2. Each layer keeps its own part of the table, as pipeline stages and merges of files need.
"""

from __future__ import annotations

from typing import Annotated

from mindspore import nn
from pydantic import Field

from petrun.delta.method import OF_THE_RUN, Method, MethodConfig
from petrun.delta.parts import (
    PREFIX_TABLE,
    Prefix,
    Projected,
    Table,
    Trunk,
    added_tokens,
    draw_normal,
    require_heads,
    switch_prefix,
)
from petrun.graph.sites import Sites
from petrun.graph.virtual_tokens import add_prefix
from petrun.typing import Cell, Tensor

_SPREAD = 1.0
"""Standard deviation of the table's initial values, as in the source's code and in peft."""


class Ptuning2Config(MethodConfig):
    """Settings of P-tuning v2."""

    tokens: int = Field(20, ge=1, description="P: virtual tokens before every layer's keys and values")
    projection: bool = Field(False, description="give them by a small network instead of learning them directly")
    middle: int = Field(128, ge=1, description="width of that network")
    dropout: Annotated[float, OF_THE_RUN] = Field(0.0, ge=0.0, lt=1.0, description="on keys and values, while training")


class Ptuning2Cell(nn.Cell):
    """() -> (2, N_kv, P, D). Owns what its source owns, under MindPet's prefix."""

    def __init__(self, prefix: Prefix) -> None:
        super().__init__()
        self.mindpet_delta_ptuning2 = prefix

    def construct(self) -> Tensor:
        return self.mindpet_delta_ptuning2()


def attach(net: Cell, config: Ptuning2Config, sites: Sites, seed: int) -> tuple[str, ...]:
    """Put a prefix before every attention core. Returns the names of the new parameters. Raises TargetError."""
    require_heads(sites)
    width = sites.kv_heads * sites.head_dim
    trunk = Trunk(config.tokens, width, config.middle, seed, "ptuning2") if config.projection else None

    def encoder(path: str) -> Ptuning2Cell:
        source: Cell = (
            Table(draw_normal(seed, path, (config.tokens, 2 * width), _SPREAD))
            if trunk is None
            else Projected(trunk, config.middle, 2 * width, seed, path)
        )
        return Ptuning2Cell(Prefix(source, sites.kv_heads, sites.head_dim, config.dropout, seed, f"{path}.prefix"))

    return add_prefix(net, sites, config.tokens, encoder)


METHOD = Method(
    name="ptuning2",
    config=Ptuning2Config,
    default_lr=1e-2,
    attach=attach,
    table=PREFIX_TABLE,
    why_no_sum=added_tokens,
    switch=switch_prefix,
    used_as=lambda config: "ptuning2" if config.projection else None,
    peft=("PREFIX_TUNING",),
    mindpet="ptuning2",
    tokens=lambda config: int(config.tokens),
    identity=False,
)


def __getattr__(name: str) -> type[Cell]:
    """Import PrefixEncoder, which MindPet's module of this name holds, at its first use."""
    if name == "PrefixEncoder":
        from petrun.mindpet.delta.ptuning2 import PrefixEncoder

        return PrefixEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
