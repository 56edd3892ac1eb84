"""NEFTune: uniform noise on the embedded tokens while a net trains.

    x' = x + (a / sqrt(T H)) e,  e uniform in [-1, 1), for embedded rows x (B, T, H)

Source: Jain et al., "NEFTune: Noisy Embeddings Improve Instruction Finetuning", arXiv:2310.05914, algorithm 1. T counts padding, as in
transformers' neftune_post_forward_hook. The noise is a function of seed, step and place in the batch, as dropout's masks are.
"""

from __future__ import annotations

import math

from mindspore import Tensor, nn, ops

from petrun.errors import TargetError
from petrun.graph.sites import Sites
from petrun.graph.surgery import cells, swap
from petrun.graph.virtual_tokens import PromptedEmbedding
from petrun.kernels import CounterUniform
from petrun.typing import Cell


class NoisyEmbedding(nn.Cell):
    """A token embedding with noise while it trains.

    Inputs: ids (B, T) int32. Returns: (B, T, H) in the table's dtype.
    """

    def __init__(self, base: Cell, alpha: float, seed: int) -> None:
        super().__init__()
        self.base = base
        self.alpha = alpha
        self.draw = CounterUniform(seed, "neftune")
        self.set_train(base.training)

    def construct(self, ids: Tensor) -> Tensor:
        x = self.base(ids)
        if not self.training:
            return x
        most = self.alpha / math.sqrt(x.shape[1] * x.shape[2])
        return x + ops.cast((self.draw(x.shape) * 2.0 - 1.0) * most, x.dtype)


def add_noise(net: Cell, sites: Sites, alpha: float, seed: int) -> None:
    """Add noise to what the net's token embedding gives, but for learned vectors before the row. Raises TargetError where the net names
    none."""
    found = cells(net)
    if not sites.embedding or sites.embedding not in found:
        raise TargetError(
            "--neftune-alpha: the model names no token embedding, to which noise could be added",
            hint="A factory of your own says where it is: return (net, Sites(embedding='embed', ...)).",
        )
    is_prompted = isinstance(found[sites.embedding], PromptedEmbedding)
    path = f"{sites.embedding}.base" if is_prompted else sites.embedding
    swap(net, {path: lambda cell: NoisyEmbedding(cell, alpha, seed)})
