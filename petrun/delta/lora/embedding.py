"""LoRA on an embedding: a lookup table with a low-rank update beside it.

    y = W[ids] + s * B[ids] A

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1, for a table of V rows instead
of a matrix product; initial values as in the authors' library: B zero, A normal (0, 1). B has a row for every row of the table, so that
W + s B A is the merged table, as for a linear layer's weight. No dropout: an id has nothing to leave out.
"""

from __future__ import annotations

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from petrun.delta.lora.dense import LORA_A, LORA_B
from petrun.tensors import Array
from petrun.typing import Cell


class LoRAEmbedding(nn.Cell):
    """An embedding with a low-rank update.

    Args: table: the embedding, whose weight (V, H) is kept as the same object. a: initial A (R, H). scale: s.

    Inputs: ids (B, T) int32. Returns: (B, T, H) in the table's dtype.
    Owns: mindpet_delta_lora_a (R, H), mindpet_delta_lora_b (V, R), float32.
    """

    def __init__(self, table: Cell, a: Array, scale: float) -> None:
        super().__init__()
        self.dtype, self.width = table.dtype, table.width
        self.weight = table.weight
        rank = a.shape[0]
        self.lora_rank, self.scaling = rank, scale
        self.mindpet_delta_lora_a = Parameter(Tensor(a), name=LORA_A)
        zeros = np.zeros((table.weight.shape[0], rank), np.float32)
        self.mindpet_delta_lora_b = Parameter(Tensor(zeros), name=LORA_B)
        self.gather, self.rows = ops.Gather(), ops.StridedSlice()
        self.lora_b_gather, self.lora_b_rows = ops.Gather(), ops.StridedSlice()
        self.lora_a_matmul, self.mul, self.add = ops.MatMul(), ops.Mul(), ops.Add()
        self.set_train(table.training)

    def update(self, b: Tensor, shape: tuple[int, ...]) -> Tensor:
        """s b A of rows of B, (N, R), as `shape`."""
        product = self.lora_a_matmul(ops.cast(b, self.dtype), ops.cast(self.mindpet_delta_lora_a, self.dtype))
        return ops.reshape(self.mul(product, ops.cast(self.scaling, self.dtype)), shape)

    def slice(self, start: int, rows: int) -> Tensor:
        """Return the adapted rows start to start + rows, (rows, H)."""
        base = ops.cast(self.rows(self.weight, (start, 0), (start + rows, self.width), (1, 1)), self.dtype)
        b = self.lora_b_rows(self.mindpet_delta_lora_b, (start, 0), (start + rows, self.lora_rank), (1, 1))
        return self.add(base, self.update(b, base.shape))

    def construct(self, ids: Tensor) -> Tensor:
        base = ops.cast(self.gather(self.weight, ids, 0), self.dtype)
        b = self.lora_b_gather(self.mindpet_delta_lora_b, ops.reshape(ids, (-1,)), 0)
        return self.add(base, self.update(b, base.shape))

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """`vocabulary`: rows of W and B over tp ranks; else both whole on each."""
        cut = tp if how == "vocabulary" else 1
        self.gather.shard(((cut, 1), (dp, 1)))
        self.lora_b_gather.shard(((cut, 1), (dp,)))
        self.rows.shard(((1, 1),))
        self.lora_b_rows.shard(((1, 1),))
        self.lora_a_matmul.shard(((dp, 1), (1, 1)))
        self.mul.shard(((dp, 1), ()))
        self.add.shard(((dp, 1, 1), (dp, 1, 1)))
