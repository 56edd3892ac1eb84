"""Prefix tuning: learned keys and values before those of every attention layer, given by a small network while training.

    [K_l | V_l] = tanh(E W_1^T + b_1) W_2,l^T + b_2,l        E (P, N_kv D), shared by all layers

Source: Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", arXiv 2101.00190, section 4.3.
The network is saved with the delta, so that training can continue; in use only its result counts.
"""

from __future__ import annotations

from typing import Annotated

from mindspore import nn
from pydantic import Field

from petrun.delta.forms import NotStored
from petrun.delta.method import OF_THE_RUN, Method, MethodConfig
from petrun.delta.parts import (
    ENCODER_ALONE,
    PREFIX_TABLE,
    Prefix,
    Projected,
    Trunk,
    added_tokens,
    require_heads,
    switch_prefix,
)
from petrun.graph.sites import Sites
from petrun.graph.virtual_tokens import add_prefix
from petrun.typing import Cell, Tensor


class PrefixConfig(MethodConfig):
    """Settings of prefix tuning."""

    tokens: int = Field(20, ge=1, description="P: virtual tokens before every layer's keys and values")
    middle: int = Field(128, ge=1, description="width of the network that gives them")
    dropout: Annotated[float, OF_THE_RUN] = Field(0.0, ge=0.0, lt=1.0, description="on keys and values, while training")


class PrefixCell(nn.Cell):
    """() -> (2, N_kv, P, D). Owns what its source owns, under MindPet's prefix."""

    def __init__(self, prefix: Prefix) -> None:
        super().__init__()
        self.mindpet_delta_prefixtuning = prefix

    def construct(self) -> Tensor:
        return self.mindpet_delta_prefixtuning()


def attach(net: Cell, config: PrefixConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Put a prefix before every attention core. Returns the names of the network's parameters. Raises TargetError."""
    require_heads(sites)
    width = sites.kv_heads * sites.head_dim
    trunk = Trunk(config.tokens, width, config.middle, seed, "prefix")

    def encoder(path: str) -> PrefixCell:
        source = Projected(trunk, config.middle, 2 * width, seed, path)
        return PrefixCell(Prefix(source, sites.kv_heads, sites.head_dim, config.dropout, seed, f"{path}.prefix"))

    return add_prefix(net, sites, config.tokens, encoder)


METHOD = Method(
    name="prefix",
    config=PrefixConfig,
    default_lr=1e-3,
    attach=attach,
    table=PREFIX_TABLE,
    why_no_sum=added_tokens,
    switch=switch_prefix,
    used_as=lambda config: "ptuning2",
    peft=ENCODER_ALONE,
    mindpet=NotStored("MindPet never trains the numbers of its prefix layers"),
    tokens=lambda config: int(config.tokens),
    identity=False,
)
