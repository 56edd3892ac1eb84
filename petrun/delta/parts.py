"""Make the cells and numbers that several methods share. P virtual tokens, H hidden, N_kv key/value heads, D head width, M mid width."""

from __future__ import annotations

import math
import zlib

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from petrun.delta.forms import AdapterTensors, BaseValues, NotStored, Tensors
from petrun.delta.method import MethodConfig
from petrun.errors import TargetError
from petrun.graph.sites import Sites
from petrun.kernels import Dropout, Tanh
from petrun.tensors import Array
from petrun.typing import Cell


def draw_normal(seed: int, site: str, shape: tuple[int, ...], std: float) -> Array:
    """Draw normal numbers of mean 0, float32, that depend on (seed, site) alone."""
    rng = np.random.default_rng([seed, zlib.crc32(site.encode())])
    return (std * rng.standard_normal(shape)).astype(np.float32)


def draw_uniform(seed: int, site: str, shape: tuple[int, ...], bound: float) -> Array:
    """Draw uniform numbers in [-bound, bound), float32, that depend on (seed, site) alone."""
    rng = np.random.default_rng([seed, zlib.crc32(site.encode())])
    return rng.uniform(-bound, bound, shape).astype(np.float32)


class Affine(nn.Cell):
    """x W^T + b; torch's initial values: both uniform in +-1/sqrt(in). Inputs: (..., in). Returns: (..., out).

    Owns: weight (out, in), bias (out,), float32.
    """

    def __init__(self, wide_in: int, wide_out: int, seed: int, site: str) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(wide_in)
        self.weight = Parameter(Tensor(draw_uniform(seed, f"{site}.weight", (wide_out, wide_in), bound)), name="weight")
        self.bias = Parameter(Tensor(draw_uniform(seed, f"{site}.bias", (wide_out,), bound)), name="bias")
        self.matmul, self.add = ops.MatMul(transpose_b=True), ops.Add()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Leave it unsharded, as its input is."""
        self.matmul.shard(((1, 1), (1, 1)))
        self.add.shard(((1, 1), (1,)))

    def construct(self, x: Tensor) -> Tensor:
        return self.add(self.matmul(x, self.weight), self.bias)


class Table(nn.Cell):
    """A matrix of learned vectors, () -> (P, width). Owns: table (P, width) float32."""

    def __init__(self, values: Array) -> None:
        super().__init__()
        self.table = Parameter(Tensor(np.ascontiguousarray(values, np.float32)), name="table")
        self.copy = ops.Add()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Leave it unsharded."""
        self.copy.shard(((1, 1), ()))

    def construct(self) -> Tensor:
        return self.copy(self.table, 0.0)


class Trunk(nn.Cell):
    """tanh(E W^T + b), which the projected prefixes of all layers share, () -> (P, M). Owns: E (P, width), W (M, width), b (M,)."""

    def __init__(self, tokens: int, width: int, middle: int, seed: int, site: str) -> None:
        super().__init__()
        self.embedding = Table(draw_normal(seed, f"{site}.embedding", (tokens, width), 1.0))
        self.dense_in = Affine(width, middle, seed, f"{site}.dense_in")
        self.tanh = Tanh()

    def construct(self) -> Tensor:
        return self.tanh(self.dense_in(self.embedding()))


class Prefix(nn.Cell):
    """Keys and values of one layer, () -> (2, N_kv, P, D), keys first; `source()` gives (P, 2 * N_kv * D), columns [key | value]."""

    def __init__(self, source: Cell, kv_heads: int, head_dim: int, dropout: float, seed: int, site: str) -> None:
        super().__init__()
        self.source = source
        self.sizes = (2, kv_heads, head_dim)
        self.dropout = Dropout(dropout, seed, site, rows=False)
        self.transpose = ops.Transpose()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Leave it unsharded."""
        self.transpose.shard(((1, 1, 1, 1),))

    def construct(self) -> Tensor:
        flat = self.dropout(self.source())
        return self.transpose(ops.reshape(flat, (flat.shape[0], *self.sizes)), (1, 2, 0, 3))


class Projected(nn.Cell):
    """A layer's part of a projected prefix: trunk() W^T + b, () -> (P, 2 * N_kv * D). Owns: W (2 * N_kv * D, M), b; shares the trunk."""

    def __init__(self, trunk: Trunk, middle: int, width: int, seed: int, site: str) -> None:
        super().__init__()
        self.trunk = trunk
        self.dense_out = Affine(middle, width, seed, f"{site}.dense_out")

    def construct(self) -> Tensor:
        return self.dense_out(self.trunk())


PREFIX_TABLE = "encoder.mindpet_delta_ptuning2.source.table"
"""Name of a layer's keys and values (P, 2 * N_kv * D), columns [key | value], below the path of its attention core."""
PROMPT_TABLE = "encoder.mindpet_delta_prompt.table"
"""Name of the vectors before the row (P, H), below the path of the token embedding."""
ENCODER_ALONE = NotStored(
    "its files hold the virtual tokens, not the network that gives them; petrun.commands.export computes them"
)


def switch_prefix(config: MethodConfig, tensors: Tensors, sites: Sites, base: BaseValues) -> AdapterTensors:
    """Return the tables of a prefix for a multi-adapter graph, one for every attention core."""
    found = AdapterTensors()
    for name in tensors:
        if name.endswith(f".{PREFIX_TABLE}"):
            table = tensors[name].reshape(len(tensors[name]), 2, sites.kv_heads, sites.head_dim)
            found.prefix[name.removesuffix(f".{PREFIX_TABLE}")] = table.transpose(1, 2, 0, 3)
    return found


def switch_prompt(config: MethodConfig, tensors: Tensors, sites: Sites, base: BaseValues) -> AdapterTensors:
    """Return the table of a prompt for a multi-adapter graph."""
    return AdapterTensors(prompt=next((tensors[n] for n in tensors if n.endswith(f".{PROMPT_TABLE}")), None))


def added_tokens(config: object) -> str:
    """Return why virtual tokens do not add up."""
    return "which puts virtual tokens before the row, and attention to them is not a sum"


def require_heads(sites: Sites) -> None:
    """Raises TargetError where the model does not state the width of its keys and values."""
    if not (sites.kv_heads and sites.head_dim):
        raise TargetError(
            "the model does not say how many key/value heads it has, and how wide",
            hint="A factory of your own says so: return (net, Sites(cores=..., kv_heads=8, head_dim=64)).",
        )


def require_hidden(sites: Sites) -> None:
    """Raises TargetError where the model does not state the width of its embeddings."""
    if not sites.hidden:
        raise TargetError(
            "the model does not say how wide its embeddings are",
            hint="A factory of your own says so: return (net, Sites(embedding=..., hidden=768)).",
        )
