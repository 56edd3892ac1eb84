"""OFT: the inputs of a layer are rotated in blocks, by orthogonal matrices that are trained.

    y = act((x R) W^T + b),   R block-diagonal, each block I + 2 Q + 2 Q^2 + ... + Q^k,   Q = U - U^T, U strictly upper triangular

Source: Qiu et al., "Controlling Text-to-Image Diffusion by Orthogonal Finetuning", arXiv 2306.07280, section 3; the block as the Neumann
series of Cayley's transform (I + Q)(I - Q)^-1, cut off: Qiu et al., "Orthogonal Finetuning Made Scalable", arXiv 2506.19847, section 4.
Number of terms, the weight 1 of the last one, and sizes of blocks as in peft 0.21, tuners/oft/layer.py. As there the rotation is computed
in float32, and with it the base's matrix is never written, so that it may be in codes.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops
from pydantic import Field, ValidationInfo, field_validator

from petrun.delta.dense import CastDense, TargetConfig, adapt, arguments_like
from petrun.delta.forms import LayerTensor, Tensors
from petrun.delta.method import ALL, Method, Update
from petrun.errors import DeltaError, TargetError
from petrun.graph.sites import Sites
from petrun.graph.surgery import cells, resolve_targets
from petrun.tensors import Array
from petrun.typing import Cell

OFT_R = "mindpet_delta_oft_r"
_SIZE = 32


class OftConfig(TargetConfig):
    """Settings of OFT."""

    block_size: int | None = Field(
        None,
        ge=2,
        description="width of a block; of a layer whose inputs it does not divide, the nearest divisor; default: 32",
    )
    blocks: int | None = Field(
        None, ge=1, description="blocks of every layer, instead of block_size; the nearest divisor in the same way"
    )
    terms: int = Field(5, ge=2, description="terms of the Neumann series; peft's num_cayley_neumann_terms")

    @field_validator("blocks")
    @classmethod
    def _either(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("block_size") is not None:
            raise ValueError("stands beside block_size, and one follows from the other: give one of them")
        return value

    def size(self, width: int) -> int:
        """Return the width of a block of a layer with so many inputs."""
        if self.blocks is not None:
            return width // nearest_divisor(width, self.blocks)
        return nearest_divisor(width, _SIZE if self.block_size is None else self.block_size)


def nearest_divisor(width: int, wanted: int) -> int:
    """Return the divisor of `width` that is nearest to `wanted`, the smaller of two. Source: peft 0.21, adjust_oft_parameters."""
    return min((n for n in range(1, width + 1) if width % n == 0), key=lambda n: abs(n - wanted))


class OftDense(CastDense):
    """A linear layer whose inputs are rotated in blocks.

    Inputs: x (..., in_channels). Returns (..., out_channels) in the dtype of x.
    Owns: mindpet_delta_oft_r (blocks, size * (size - 1) / 2) float32, 0 at first: row by row the strictly upper triangle of U.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, terms: int, **base: Any) -> None:
        super().__init__(in_channels, out_channels, **base)
        count = size * (size - 1) // 2
        self.sizes = (in_channels // size, size)
        self.mindpet_delta_oft_r = Parameter(Tensor(np.zeros((self.sizes[0], count), np.float32)), name=OFT_R)
        self.terms = terms
        # Where each entry of U lies in its row of numbers; those below the diagonal are the zero behind it.
        places = np.full((size, size), count, np.int32)
        places[np.triu_indices(size, 1)] = np.arange(count)
        self.places = Tensor(places.reshape(-1))
        self.zero = Tensor(np.zeros((self.sizes[0], 1), np.float32))
        self.identity = Tensor(np.eye(size, dtype=np.float32))
        self.gather, self.join = ops.Gather(), ops.Concat(axis=1)
        self.turn, self.product = ops.Transpose(), ops.BatchMatMul()

    def rotation(self) -> Tensor:
        """Return the blocks of R, (blocks, size, size) float32."""
        upper = self.gather(self.join((self.mindpet_delta_oft_r, self.zero)), self.places, 1)
        upper = self.reshape(upper, (self.sizes[0], self.sizes[1], self.sizes[1]))
        q = upper - self.turn(upper, (0, 2, 1))
        total, power = self.identity + 2.0 * q, q
        for weight in weights(self.terms):
            power = self.product(power, q)
            total = total + weight * power
        return total

    def plain(self, x: Tensor) -> Tensor:
        """Compute (M, in_channels) -> (M, out_channels): the rotation, then the base."""
        blocks = self.turn(self.reshape(self.cast(x, ms.float32), (-1, self.sizes[0], self.sizes[1])), (1, 0, 2))
        turned = self.turn(self.product(blocks, self.rotation()), (1, 0, 2))
        return super().plain(self.reshape(turned, (-1, self.in_channels)))


def weights(terms: int) -> tuple[float, ...]:
    """Return the weights of Q^2, Q^3, ... in peft's series of so many terms: 2, and 1 for the last one. Three terms are as four."""
    return () if terms == 2 else (*(2.0 for _ in range(max(terms, 4) - 3)), 1.0)


def attach(net: Cell, config: OftConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Wrap every targeted nn.Dense. Returns the names of all rotations. Raises TargetError."""
    paths = resolve_targets(net, sites, config.target, config.exclude)
    table = cells(net)
    single = [path for path in paths if config.size(table[path].in_channels) == 1]
    if single:
        raise TargetError(
            f"{single[0]} has {table[single[0]].in_channels} inputs, and the nearest divisor makes blocks of one: they do not turn",
            hint="Give another delta.block_size, or leave the layer out with --exclude.",
        )

    def make(dense: Cell, path: str) -> Cell:
        size = config.size(dense.in_channels)
        return OftDense(dense.in_channels, dense.out_channels, size, config.terms, **arguments_like(dense))

    return adapt(net, paths, make)


def block_size(triangle: Array) -> int:
    """Return the width of the blocks of (blocks, size * (size - 1) / 2) numbers."""
    return int(1 + np.sqrt(1 + 8 * triangle.shape[1])) // 2


def merge(config: OftConfig, tensors: Tensors) -> Update:
    """Return the update W <- W R^T, in float32."""

    def update(name: str, value: Array, rows: slice = ALL) -> Array:
        path, _, leaf = name.rpartition(".")
        if leaf != "weight" or f"{path}.{OFT_R}" not in tensors:
            return value
        triangle = tensors[f"{path}.{OFT_R}"].astype(np.float32)
        size = block_size(triangle)
        if len(triangle) * size != value.shape[1]:
            raise DeltaError(f"{path}: turns {len(triangle) * size} inputs, and the base's layer has {value.shape[1]}")
        upper = np.zeros((len(triangle), size, size), np.float32)
        rows_of, columns_of = np.triu_indices(size, 1)
        upper[:, rows_of, columns_of] = triangle
        q = upper - upper.transpose(0, 2, 1)
        total, power = np.eye(size, dtype=np.float32) + 2 * q, q
        for weight in weights(config.terms):
            power = power @ q
            total += np.float32(weight) * power
        blocks = value.reshape(len(value), len(triangle), size).transpose(1, 0, 2) @ total.transpose(0, 2, 1)
        merged: Array = np.ascontiguousarray(blocks.transpose(1, 0, 2)).reshape(value.shape)
        return merged

    return update


def why_no_sum(config: OftConfig) -> str:
    """Return why its deltas do not add up."""
    return "which turns what a layer is given: rotations do not add up"


METHOD = Method(
    name="oft",
    config=OftConfig,
    default_lr=1e-3,
    attach=attach,
    tensors={OFT_R: LayerTensor(axes=2)},
    merge=merge,
    why_no_sum=why_no_sum,
    peft=("OFT",),
    why_not_split="turns a layer's features in blocks, which do not follow the shards of ranks",
)
