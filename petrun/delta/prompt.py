"""Prompt tuning: learned vectors before the embedded row; nothing else trains.

    X = [E_prompt; embed(ids)]        E_prompt (P, H)

Source: Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", arXiv 2104.08691, sections 2 and 3.2. Random
vectors have the mean and the spread of the base's embedding table; a text gives its tokens' embeddings, repeated or truncated to P.
"""

from __future__ import annotations

import numpy as np
from mindspore import nn
from pydantic import Field

from petrun.delta.method import Encode, Method, MethodConfig
from petrun.delta.parts import PROMPT_TABLE, Table, added_tokens, draw_normal, require_hidden, switch_prompt
from petrun.errors import ConfigError, TargetError
from petrun.graph.sites import Sites
from petrun.graph.surgery import cells
from petrun.graph.virtual_tokens import add_prompt
from petrun.tensors import Array
from petrun.typing import Cell, Tensor


class PromptConfig(MethodConfig):
    """Settings of prompt tuning."""

    tokens: int = Field(20, ge=1, description="P: learned vectors before the row")
    init_text: str | None = Field(None, description="text whose embeddings the vectors start from; default: random")
    init_ids: tuple[int, ...] = Field((), description="the same as token ids; filled in from init_text")


class PromptCell(nn.Cell):
    """() -> (P, H). Owns: mindpet_delta_prompt.table (P, H) float32."""

    def __init__(self, values: Array) -> None:
        super().__init__()
        self.mindpet_delta_prompt = Table(values)

    def construct(self) -> Tensor:
        return self.mindpet_delta_prompt()


def prepare(config: PromptConfig, encode: Encode | None) -> PromptConfig:
    """Look up `init_text` in the tokenizer. Raises ConfigError."""
    if config.init_text is None or config.init_ids:
        return config
    if encode is None:
        raise ConfigError(
            "delta.init_text needs a tokenizer, and the base has none", hint="Give the ids: --set delta.init_ids=[...]"
        )
    ids = encode(config.init_text)
    if not ids:
        raise ConfigError(f"delta.init_text {config.init_text!r} has no tokens", hint="Give a text that says the task.")
    return config.model_copy(update={"init_ids": tuple(ids)})


def initial(table: Array, config: PromptConfig, seed: int) -> Array:
    """Return the initial vectors (P, H) from the base's embedding table (V, H). Raises TargetError for an id outside it."""
    if not config.init_ids:
        spread = float(table.std())
        drawn: Array = table.mean(0, dtype=np.float32)
        return drawn + draw_normal(seed, "prompt", (config.tokens, table.shape[1]), spread)
    outside = [i for i in config.init_ids if not 0 <= i < len(table)]
    if outside:
        raise TargetError(
            f"delta.init_ids: {outside[0]} is not in 0..{len(table) - 1}, the tokens of the model",
            hint="Give ids of this model's vocabulary.",
        )
    chosen: Array = table[np.resize(np.array(config.init_ids), config.tokens)]
    return chosen


def attach(net: Cell, config: PromptConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Put the prompt before the embedded row. Returns the name of its table. Raises TargetError."""
    require_hidden(sites)
    embedding = cells(net).get(sites.embedding)
    if embedding is None:
        # It raises the error that says where to name the embedding.
        return add_prompt(net, sites, config.tokens, None)
    weight = next(iter(embedding.get_parameters())).asnumpy().astype(np.float32) * np.float32(sites.embedding_scale)
    return add_prompt(net, sites, config.tokens, PromptCell(initial(weight, config, seed)))


METHOD = Method(
    name="prompt",
    config=PromptConfig,
    default_lr=3e-2,
    attach=attach,
    table=PROMPT_TABLE,
    why_no_sum=added_tokens,
    switch=switch_prompt,
    peft=("PROMPT_TUNING", "P_TUNING"),
    tokens=lambda config: int(config.tokens),
    prepare=prepare,
    identity=False,
)
