"""MindPet's PromptTuning: vectors for virtual tokens, to be put before the embedded row by a model that takes them.

Source: Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", arXiv 2104.08691, section 2.
MindPet had it before version 1.0.0, with a parameter named tk_delta_prompttuning_embedding. `--algo prompt` keeps its vectors with the
model.
"""

from __future__ import annotations

from mindspore import nn

from petrun.delta.dense import positive_int
from petrun.typing import Tensor


class PromptTuning(nn.Cell):
    """table[indices], MindPet's signature.

    Args: num_virtual_tokens: P. token_dim: H. num_transformer_submodules: S, 2 for a model of encoder and decoder.
    Inputs: indices (...) integers below S P. Returns (..., H) float32.
    Owns: mindpet_delta_prompttuning_embedding.embedding_table (S P, H), Normal(0.01) at first.
    Raises: TypeError or ValueError for an argument of the wrong type or range.
    """

    def __init__(self, num_virtual_tokens: int, token_dim: int, num_transformer_submodules: int = 1) -> None:
        super().__init__()
        owner = "PromptTuning"
        self.num_virtual_tokens = positive_int(owner, "num_virtual_tokens", num_virtual_tokens)
        self.token_dim = positive_int(owner, "token_dim", token_dim)
        self.num_transformer_submodules = positive_int(owner, "num_transformer_submodules", num_transformer_submodules)
        self.total_virtual_tokens = num_virtual_tokens * num_transformer_submodules
        self.mindpet_delta_prompttuning_embedding = nn.Embedding(self.total_virtual_tokens, token_dim)

    def construct(self, indices: Tensor) -> Tensor:
        return self.mindpet_delta_prompttuning_embedding(indices)
