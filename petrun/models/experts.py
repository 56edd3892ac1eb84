"""A feed-forward part of experts, of which a router chooses a few for each token.

B batch, T tokens, R = B * T, H hidden, E experts, F width inside an expert, k experts that compute a token.
Source: Shazeer et al., arXiv:1701.06538; Jiang et al., arXiv:2401.04088 (Mixtral); layout of transformers' MixtralSparseMoeBlock and
Qwen3MoeSparseMoeBlock.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, nn, ops
from mindspore.common.initializer import initializer

from petrun.kernels import GroupedProduct, SiluMul, native
from petrun.kernels import fused as operators
from petrun.models.llama_config import LlamaConfig
from petrun.models.parts import FEW_ROWS, Product, activation
from petrun.typing import DType, Tensor


class Router(operators.FusedCell):
    """Chooses the experts of each token: softmax over all of them in float32, the k largest, and by `renormalises` their sum made 1.

    Inputs: x (R, H). Returns: weights (R, k) float32, chosen (R, k) int32, the largest first. Owns: weight (E, H).
    """

    def __init__(self, c: LlamaConfig, dtype: DType) -> None:
        super().__init__()
        self.experts, self.count, self.renormalises = c.experts, c.experts_per_token, c.renormalises
        self.weight = Parameter(initializer("zeros", (c.experts, c.hidden), dtype), name="weight")
        library = native.library()
        self.is_fused = library is not None
        self.fused = operators.if_built(operators.dense_rows, library)
        self.matmul, self.softmax, self.largest = ops.MatMul(transpose_b=True), ops.Softmax(-1), ops.TopK(sorted=True)
        self.one_hot, self.on, self.off = ops.OneHot(), ms.Tensor(1.0, ms.float32), ms.Tensor(0.0, ms.float32)
        self.any, self.kept = ops.ReduceSum(), ops.Mul()
        self.total, self.over = ops.ReduceSum(keep_dims=True), ops.Div()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard by rows of the batch; every rank of the tensor-parallel group chooses the same."""
        rows = (dp, 1)
        self.is_fused = False
        self.matmul.shard((rows, (1, 1)))
        self.softmax.shard((rows,))
        self.largest.shard((rows,))
        self.one_hot.shard(((dp, 1, 1), (), ()))
        self.any.shard(((dp, 1, 1),))
        self.kept.shard((rows, rows))
        self.total.shard((rows,))
        self.over.shard((rows, rows))

    def probabilities(self, x: Tensor) -> Tensor:
        """(R, H) -> (R, E) float32. A token's choice must not depend on the rows beside it: see parts.Dense."""
        weight = ops.cast(self.weight, x.dtype)
        few = self.is_fused and not self.training and x.dtype == ms.float32 and x.shape[0] <= FEW_ROWS
        logits = self.fused(x, weight) if few else self.matmul(x, weight)
        return self.softmax(ops.cast(logits, ms.float32))

    def normalised(self, weights: Tensor) -> Tensor:
        """Have the weights of a row sum to 1 where the family says so."""
        return self.over(weights, self.total(weights, -1)) if self.renormalises else weights

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights, chosen = self.largest(self.probabilities(x), self.count)
        return self.normalised(weights), chosen

    def shares(self, x: Tensor) -> Tensor:
        """Return the weights in the order of the experts, 0 for those that were not chosen: (R, E) float32."""
        every = self.probabilities(x)
        # Through the indices alone: the gradient of TopK's values would scatter them over rows that ranks split.
        _, chosen = self.largest(ops.stop_gradient(every), self.count)
        chosen = self.any(self.one_hot(chosen, self.experts, self.on, self.off), 1)
        return self.normalised(self.kept(every, chosen))


class ExpertLinear(nn.Cell):
    """A linear layer of every expert, without biases. Owns: weight (E, out, in).

    Inputs: x (R, in), chosen (M,) int32. Returns: (M, out), see GroupedProduct.
    """

    def __init__(self, experts: int, wide_in: int, wide_out: int, dtype: DType) -> None:
        super().__init__()
        self.experts, self.in_channels, self.out_channels = experts, wide_in, wide_out
        self.weight = Parameter(initializer("zeros", (experts, wide_out, wide_in), dtype), name="weight")
        self.product = GroupedProduct()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Experts over tp ranks: as every expert computes every token, it costs each rank what splitting their widths would, and what the
        ranks add up is (R, H) and not that for every expert."""
        self.product.shard(((dp, 1), (tp, 1)), ((tp, dp, 1), (tp, 1, 1)))

    def construct(self, x: Tensor, chosen: Tensor) -> Tensor:
        return self.product(x, self.weight, chosen)

    def every(self, x: Tensor) -> Tensor:
        """Compute each token by all experts: (B, T, in) -> (B, T, E * out)."""
        b, t, width = x.shape
        y = self.product.every(ops.reshape(x, (-1, width)), self.weight)
        return ops.reshape(y, (b, t, self.experts * self.out_channels))

    def each(self, x: Tensor) -> Tensor:
        """Compute by each expert what is its own: (E, R, in) -> (E, R, out)."""
        return self.product.each(x, self.weight)


class Mix(nn.Cell):
    """The sum of what the experts made of a token, each by its share.

    Inputs: made (E, R, H); shares (R, E) float32. Returns: (R, H) in the dtype of `made`.
    """

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.experts = experts
        self.turned, self.scaled, self.total = ops.Transpose(), ops.Mul(), ops.ReduceSum()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Experts over tp ranks, rows of the batch over dp."""
        self.turned.shard(((dp, tp),))
        self.scaled.shard(((tp, dp, 1), (tp, dp, 1)))
        self.total.shard(((tp, dp, 1),))

    def construct(self, made: Tensor, shares: Tensor) -> Tensor:
        shares = ops.reshape(self.turned(ops.cast(shares, made.dtype), (1, 0)), (self.experts, -1, 1))
        return self.total(self.scaled(made, shares), 0)


class ByExpert(nn.Cell):
    """(B, T, E * F) -> (E, R, F)."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.experts = experts
        self.turned = ops.Transpose()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Experts over tp ranks, rows of the batch over dp."""
        self.turned.shard(((dp, tp, 1),))

    def construct(self, x: Tensor) -> Tensor:
        return self.turned(ops.reshape(x, (-1, self.experts, x.shape[2] // self.experts)), (1, 0, 2))


class SparseMlp(nn.Cell):
    """The sum over the k experts of a token of weight * down(act(gate(x)) * up(x)), (B, T, H) -> (B, T, H).

    On the CPU the C++ operator computes each token by its own experts. Elsewhere shapes must not depend on what the router chose: every
    expert computes every token and those that were not chosen count 0, the same result at E / k times the products.
    """

    def __init__(self, c: LlamaConfig, dtype: DType) -> None:
        super().__init__()
        self.count = c.experts_per_token
        self.router = Router(c, dtype)
        self.gate = ExpertLinear(c.experts, c.hidden, c.expert_wide, dtype)
        self.up = ExpertLinear(c.experts, c.hidden, c.expert_wide, dtype)
        self.down = ExpertLinear(c.experts, c.expert_wide, c.hidden, dtype)
        self.joined = c.act in ("silu", "swish")
        self.act = SiluMul() if self.joined else activation(c.act)
        if not self.joined:
            self.product = Product()
        self.by_expert, self.mix = ByExpert(c.experts), Mix(c.experts)

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """act(gate) * up."""
        return self.act(gate, up) if self.joined else self.product(self.act(gate), up)

    def construct(self, x: Tensor) -> Tensor:
        rows = ops.reshape(x, (-1, x.shape[2]))
        if self.gate.product.is_fused and x.dtype == ms.float32:
            weights, chosen = self.router(rows)
            picked = ops.reshape(chosen, (-1,))
            made = self.down(self.gated(self.gate(rows, picked), self.up(rows, picked)), picked)
            made = ops.reshape(made, (-1, self.count, x.shape[2]))
            mixed = ops.sum(made * ops.reshape(weights, (-1, self.count, 1)), 1)
        else:
            wide = self.by_expert(self.gated(self.gate.every(x), self.up.every(x)))
            mixed = self.mix(self.down.each(wide), self.router.shares(rows))
        return ops.reshape(mixed, x.shape)
