"""MindPet's PrefixEncoder: keys and values of P virtual tokens for all layers at once, to be fed to a model that takes them.

    E = table[0..P-1]   or   tanh(table[0..P-1] W_in^T + b_in) W_out^T + b_out   (P, 2 layers N D)

Source: Liu et al., "P-Tuning v2", arXiv 2110.07602, section 3.2.
One deliberate difference: the output is float32 unless asked. `--algo ptuning2` keeps each layer's part with the layer instead.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from petrun.delta.dense import positive_int, rate
from petrun.kernels import Dropout
from petrun.kernels.named_activations import Tanh
from petrun.typing import DType


class PrefixEmbedding(nn.Cell):
    """Look up table[ids], sharded over the batch, or over the table's rows as well.

    Inputs: ids (B, P) integers. Returns (B, P, width). Owns: embedding_table (rows, width), Normal(0.01) at first.
    Raises: ValueError where the rows do not divide by model_parallel.
    """

    def __init__(
        self, rows: int, width: int, data_parallel: int = 1, model_parallel: int = 1, vocab_emb_dp: bool = True
    ) -> None:
        super().__init__()
        if not vocab_emb_dp and rows % model_parallel:
            raise ValueError(
                f"PrefixEncoder: pre_seq_len {rows} must be a multiple of model_parallel {model_parallel} "
                "where vocab_emb_dp is False"
            )
        self.embedding_table = Parameter(
            initializer("normal", [rows, width]), name="embedding_table", parallel_optimizer=False
        )
        self.gather = ops.Gather().shard(((1 if vocab_emb_dp else model_parallel, 1), (data_parallel, 1)))

    def construct(self, ids: Tensor) -> Tensor:
        return self.gather(self.embedding_table, ids, 0)


class PrefixEncoder(nn.Cell):
    """Keys and values of the virtual tokens, MindPet's signature.

    Args:
        pre_seq_len: P. num_layers, num_heads: of the model. kv_channels: D.
        prefix_projection: compute them with a network of two layers; projection_dim: its width. dropout_prob: on the result.
        parallel_config: None, or an object with data_parallel, model_parallel and vocab_emb_dp, for the table.
        out_perm: permutation of (B, P, 2 layers, N, D); its first axis must be 2, the layers.

    Inputs: batch_size, an int; dtype of the result. Returns: for every layer (2, B, N, P, D), keys first.
    Owns: mindpet_delta_ptuning2_prefix (P,) int64 0..P-1, frozen; mindpet_delta_ptuning2_embedding.embedding_table
    (P, 2 layers N D); with projection mindpet_delta_ptuning2_dense_{in,out}.{weight,bias}.
    Raises: TypeError or ValueError for an argument of the wrong type or range.
    """

    def __init__(
        self,
        pre_seq_len: int,
        num_layers: int,
        num_heads: int,
        kv_channels: int,
        prefix_projection: bool,
        projection_dim: int,
        dropout_prob: float,
        parallel_config: Any = None,
        out_perm: tuple[int, ...] = (2, 0, 3, 1, 4),
    ) -> None:
        super().__init__()
        owner = "PrefixEncoder"
        self.pre_seq_len = positive_int(owner, "pre_seq_len", pre_seq_len)
        self.num_layers = positive_int(owner, "num_layers", num_layers)
        self.num_heads = positive_int(owner, "num_heads", num_heads)
        self.kv_channels = positive_int(owner, "kv_channels", kv_channels)
        self.dropout = Dropout(rate(owner, "dropout_prob", dropout_prob), 0, "ptuning2")
        self.prefix_projection = prefix_projection
        self.mindpet_delta_ptuning2_prefix = Parameter(
            Tensor(np.arange(pre_seq_len, dtype=np.int64)), name="mindpet_delta_ptuning2_prefix", requires_grad=False
        )
        width = 2 * num_layers * num_heads * kv_channels
        splits: tuple[int, int, bool] | tuple[()] = ()
        if parallel_config is not None:
            data_parallel = positive_int(owner, "parallel_config.data_parallel", parallel_config.data_parallel)
            model_parallel = positive_int(owner, "parallel_config.model_parallel", parallel_config.model_parallel)
            splits = (data_parallel, model_parallel, parallel_config.vocab_emb_dp)
        self.mindpet_delta_ptuning2_embedding = PrefixEmbedding(pre_seq_len, width, *splits)
        if prefix_projection:
            self.projection_dim = positive_int(owner, "projection_dim", projection_dim)
            self.mindpet_delta_ptuning2_dense_in = nn.Dense(width, projection_dim)
            self.mindpet_delta_ptuning2_tanh = Tanh()
            self.mindpet_delta_ptuning2_dense_out = nn.Dense(projection_dim, width)
        self.out_perm = out_perm
        self.expand_dims = ops.ExpandDims().shard(((1,),))
        self.tile = ops.Tile().shard(((1, 1),))
        self.cast = ops.Cast()
        self.reshape = ops.Reshape()
        self.transpose = ops.Transpose()
        self.split_layers = ops.Split(0, num_layers)

    def construct(self, batch_size: int, dtype: DType = ms.float32) -> Tensor:
        # A table sharded by rows needs int32; the parameter is int64 in every MindPet checkpoint.
        ids = ops.cast(self.mindpet_delta_ptuning2_prefix, ms.int32)
        ids = self.tile(self.expand_dims(ids, 0), (batch_size, 1))
        values = self.mindpet_delta_ptuning2_embedding(ids)
        if self.prefix_projection:
            values = self.mindpet_delta_ptuning2_tanh(self.mindpet_delta_ptuning2_dense_in(values))
            values = self.mindpet_delta_ptuning2_dense_out(values)
        sizes = (batch_size, self.pre_seq_len, 2 * self.num_layers, self.num_heads, self.kv_channels)
        values = self.dropout(self.reshape(self.cast(values, dtype), sizes))
        return self.split_layers(self.transpose(values, self.out_perm))

    def shard(self, data_parallel: int, model_parallel: int) -> None:
        """MindPet's strategies: the batch over data_parallel devices, the network's rows over model_parallel."""
        if self.prefix_projection:
            for dense in (self.mindpet_delta_ptuning2_dense_in, self.mindpet_delta_ptuning2_dense_out):
                dense.matmul.shard(((data_parallel, 1), (model_parallel, 1)))
                dense.bias_add.shard(((data_parallel, 1), (1,)))
            self.mindpet_delta_ptuning2_tanh.shard(((data_parallel, 1, 1),))
        self.cast.shard(((data_parallel, 1, 1),))
        five = (data_parallel, 1, 1, 1, 1)
        self.dropout.dropout.shard((five, five))
        self.transpose.shard((five,))
        self.split_layers.shard(((1, data_parallel, 1, 1, 1),))
