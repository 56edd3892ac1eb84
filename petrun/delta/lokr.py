"""LoKr: the update of a layer is a Kronecker product of two small matrices, the second of which may be of low rank.

    y = act(x W^T + b + s x D^T),   D = W1 (x) W2,   D[a K + c, b N + d] = W1[a, b] W2[c, d],   s = alpha / R
    out = L K, in = M N;   W1 (L, M);   W2 (K, N), or W2a (K, R) W2b (R, N) where R < max(K, N) / 2

Source: Yeh et al., "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation", arXiv 2309.14859, section 3.3;
how the sizes are taken apart, names, scale and initial values as in peft 0.21, tuners/lokr/layer.py. D is never made: x is multiplied by W2
in its last axis and by W1 in the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, ops
from pydantic import Field, field_validator

from petrun.delta.dense import AddedDense, TargetConfig, adapt, arguments_like, drawn
from petrun.delta.forms import LayerTensor, Tensors
from petrun.delta.method import ALL, Method, Update
from petrun.delta.ranks import RankedConfig, check_patterns
from petrun.errors import DeltaError
from petrun.graph.sites import Sites
from petrun.graph.surgery import resolve_targets
from petrun.tensors import Array
from petrun.typing import Cell

LOKR_W1 = "mindpet_delta_lokr_w1"
LOKR_W1_A = "mindpet_delta_lokr_w1_a"
LOKR_W1_B = "mindpet_delta_lokr_w1_b"
LOKR_W2 = "mindpet_delta_lokr_w2"
LOKR_W2_A = "mindpet_delta_lokr_w2_a"
LOKR_W2_B = "mindpet_delta_lokr_w2_b"


class LokrConfig(RankedConfig):
    """Settings of LoKr."""

    rank: int = Field(
        8, ge=1, description="R, rank of W2, and of W1 with decompose_both, where half their longer side is above it"
    )
    decompose_both: bool = Field(False, description="whether W1 may be a product of two matrices too")
    decompose_factor: int = Field(
        -1,
        description="width of W1 in either direction, where it divides the layer's or else at most; -1: near the square root",
    )

    @field_validator("decompose_factor")
    @classmethod
    def _a_divider(cls, value: int) -> int:
        if value < 1 and value != -1:
            raise ValueError("must be a positive whole number, or -1")
        return value

    def shapes(self, path: str, out_channels: int, in_channels: int) -> dict[str, tuple[int, int]]:
        """Return the name of each of a layer's matrices -> its shape."""
        rank, _ = self.site(path)
        rows, columns = (divided(width, self.decompose_factor) for width in (out_channels, in_channels))
        found: dict[str, tuple[int, int]] = {}
        whole = (not self.decompose_both, False)
        for i, (one, first, second) in enumerate(((LOKR_W1, LOKR_W1_A, LOKR_W1_B), (LOKR_W2, LOKR_W2_A, LOKR_W2_B))):
            if whole[i] or rank >= max(rows[i], columns[i]) / 2:
                found[one] = (rows[i], columns[i])
            else:
                found[first], found[second] = (rows[i], rank), (rank, columns[i])
        return found


def divided(width: int, factor: int) -> tuple[int, int]:
    """Return (m, n), m n = width: m is `factor` where that divides it. Else m <= n, and m grows from divisor to divisor as long as m + n
    shrinks and m is not above `factor`; -1: no bound.

    Source: peft 0.21, tuners/lokr/layer.py factorization.
    """
    if factor > 0 and width % factor == 0:
        return factor, width // factor
    bound = width if factor == -1 else factor
    small, large = 1, width
    while small < large:
        following = next(m for m in range(small + 1, width + 1) if width % m == 0)
        if following + width // following > small + large or following > bound:
            break
        small, large = following, width // following
    return min(small, large), max(small, large)


class LokrDense(AddedDense):
    """A linear layer with a Kronecker product beside it.

    Inputs: x (..., in_channels). Returns (..., out_channels) in the dtype of x.
    Owns: mindpet_delta_lokr_w1 (L, M), or _w1_a and _w1_b; mindpet_delta_lokr_w2 (K, N), or _w2_a and _w2_b; float32. W1, or W1a, is 0 at
    first, the others are uniform in +-1/sqrt(columns).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        shapes: dict[str, tuple[int, int]],
        scale: float,
        seed: int,
        path: str,
        **base: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, **base)

        def start(name: str) -> Parameter:
            zero, shape = name in (LOKR_W1, LOKR_W1_A), shapes[name]
            values = np.zeros(shape, np.float32) if zero else drawn(f"{path}.{name}", shape, shape[1], seed)
            return Parameter(Tensor(values), name=name)

        # The cell has both methods of a matrix; which one is in the graph is chosen here.
        if LOKR_W1 in shapes:
            self.mindpet_delta_lokr_w1, self.first = start(LOKR_W1), self.whole_first
            self.rows, self.columns = shapes[LOKR_W1]
        else:
            self.mindpet_delta_lokr_w1_a, self.mindpet_delta_lokr_w1_b = start(LOKR_W1_A), start(LOKR_W1_B)
            self.first, self.rows, self.columns = self.factored_first, shapes[LOKR_W1_A][0], shapes[LOKR_W1_B][1]
        if LOKR_W2 in shapes:
            self.mindpet_delta_lokr_w2, self.second = start(LOKR_W2), self.whole_second
        else:
            self.mindpet_delta_lokr_w2_a, self.mindpet_delta_lokr_w2_b = start(LOKR_W2_A), start(LOKR_W2_B)
            self.second = self.factored_second
        self.scale = scale
        self.product, self.matmul_t = ops.MatMul(), ops.MatMul(transpose_b=True)
        self.turn = ops.Transpose()

    def whole_first(self) -> Tensor:
        """Return W1."""
        return self.mindpet_delta_lokr_w1

    def factored_first(self) -> Tensor:
        """Return W1a W1b."""
        return self.product(self.mindpet_delta_lokr_w1_a, self.mindpet_delta_lokr_w1_b)

    def whole_second(self, x: Tensor) -> Tensor:
        """Compute (., N) -> (., K), x W2^T."""
        return self.matmul_t(x, self.cast(self.mindpet_delta_lokr_w2, self.compute_dtype))

    def factored_second(self, x: Tensor) -> Tensor:
        """Compute (., N) -> (., K), x W2b^T W2a^T."""
        low = self.matmul_t(x, self.cast(self.mindpet_delta_lokr_w2_b, self.compute_dtype))
        return self.matmul_t(low, self.cast(self.mindpet_delta_lokr_w2_a, self.compute_dtype))

    def change(self, x: Tensor) -> Tensor:
        """Compute s x D^T."""
        inner, outer = self.in_channels // self.columns, self.out_channels // self.rows
        first = self.cast(self.first() * self.scale, self.compute_dtype)
        y = self.second(self.reshape(x, (-1, inner)))
        y = self.turn(self.reshape(y, (-1, self.columns, outer)), (0, 2, 1))
        y = self.matmul_t(self.reshape(y, (-1, self.columns)), first)
        y = self.turn(self.reshape(y, (-1, outer, self.rows)), (0, 2, 1))
        return self.reshape(y, (-1, self.out_channels))


def attach(net: Cell, config: LokrConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Wrap every targeted nn.Dense. Returns the names of all matrices. Raises TargetError."""
    paths = resolve_targets(net, sites, config.target, config.exclude)
    check_patterns(config, paths)

    def make(dense: Cell, path: str) -> Cell:
        wide_in, wide_out = dense.in_channels, dense.out_channels
        shapes = config.shapes(path, wide_out, wide_in)
        return LokrDense(wide_in, wide_out, shapes, config.site(path)[1], seed, path, **arguments_like(dense))

    return adapt(net, paths, make)


def merge(config: LokrConfig, tensors: Tensors) -> Update:
    """Return the update W <- W + s W1 (x) W2, in float32."""

    def matrix(path: str, one: str, first: str, second: str) -> Array | None:
        if f"{path}.{one}" in tensors:
            return tensors[f"{path}.{one}"].astype(np.float32)
        if f"{path}.{first}" not in tensors:
            return None
        found: Array = tensors[f"{path}.{first}"].astype(np.float32) @ tensors[f"{path}.{second}"].astype(np.float32)
        return found

    def update(name: str, value: Array, rows: slice = ALL) -> Array:
        path, _, leaf = name.rpartition(".")
        outer = matrix(path, LOKR_W1, LOKR_W1_A, LOKR_W1_B) if leaf == "weight" else None
        inner = matrix(path, LOKR_W2, LOKR_W2_A, LOKR_W2_B) if leaf == "weight" else None
        if outer is None or inner is None:
            return value
        index = np.arange(len(outer) * len(inner))[rows]
        blocks = outer[index // len(inner)][:, :, None] * inner[index % len(inner)][:, None, :]
        merged: Array = blocks.reshape(len(index), -1)
        if merged.shape != value.shape:
            size = [len(outer) * len(inner), merged.shape[1]]
            raise DeltaError(f"{path}: its product is {size}, which is not the shape of the base's matrix")
        merged *= np.float32(config.site(path)[1])
        merged += value
        return merged

    return update


def why_no_sum(config: TargetConfig) -> str:
    """Return why its deltas do not add up."""
    return "whose Kronecker products do not add up to one, and have too high a rank for a LoRA"


METHOD = Method(
    name="lokr",
    config=LokrConfig,
    default_lr=3e-3,
    attach=attach,
    tensors={name: LayerTensor(axes=2) for name in (LOKR_W1, LOKR_W1_A, LOKR_W1_B, LOKR_W2, LOKR_W2_A, LOKR_W2_B)},
    merge=merge,
    why_no_sum=why_no_sum,
    peft=("LOKR",),
    why_not_split="multiplies a layer's features in blocks, which do not follow the shards of ranks",
)
