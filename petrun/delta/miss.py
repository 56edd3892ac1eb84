"""MiSS: one trained matrix a layer, which every block of R inputs meets.

    y = act(x W^T + b + (sum over blocks of dropout(x)) D),   D (R, out); the last block is filled up with zeros
    W[:, i] <- W[:, i] + D[i mod R]

Source: Kang and Yin, "MiSS: Revisiting the Trade-off in LoRA with an Efficient Shard-Sharing Structure", arXiv 2409.15371, section 3;
name, initial value and padding as in peft 0.21, tuners/miss/layer.py, of which the variants bat and mini are not here.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from mindspore import Parameter, Tensor, ops
from pydantic import Field

from petrun.delta.dense import AddedDense, TargetConfig, adapt, arguments_like
from petrun.delta.forms import AdapterTensors, BaseValues, LayerTensor, LowRankUpdate, Tensors, layers_with
from petrun.delta.method import ALL, OF_THE_RUN, Method, Update
from petrun.errors import TargetError
from petrun.graph.sites import Sites
from petrun.graph.surgery import cells, resolve_targets
from petrun.kernels import Dropout
from petrun.tensors import Array
from petrun.typing import Cell

MISS_BLOCK = "mindpet_delta_miss_block"


class MissConfig(TargetConfig):
    """Settings of MiSS."""

    rank: int = Field(64, ge=1, description="R, rows of D: the width of a block of inputs")
    dropout: Annotated[float, OF_THE_RUN] = Field(0.0, ge=0.0, lt=1.0, description="on the inputs, while training")


class MissDense(AddedDense):
    """A linear layer with one matrix beside it for all blocks of its inputs.

    Inputs: x (..., in_channels). Returns (..., out_channels) in the dtype of x.
    Owns: mindpet_delta_miss_block (R, out_channels) float32, 0 at first.
    """

    def __init__(self, in_channels: int, out_channels: int, rank: int, dropout: Dropout, **base: Any) -> None:
        super().__init__(in_channels, out_channels, **base)
        self.mindpet_delta_miss_block = Parameter(Tensor(np.zeros((rank, out_channels), np.float32)), name=MISS_BLOCK)
        self.rank, self.blocks = rank, -(-in_channels // rank)
        missing = self.blocks * rank - in_channels
        # Not ops.pad: on the CPU its gradient is wrong from the second execution of a graph on (MindSpore 2.10).
        self.fill_up = ops.Pad(((0, 0), (0, missing))) if missing else None
        self.miss_dropout = dropout
        self.product, self.total = ops.MatMul(), ops.ReduceSum()

    def change(self, x: Tensor) -> Tensor:
        """Compute (sum over blocks of x) D."""
        x = self.miss_dropout(x)
        if self.fill_up is not None:
            x = self.fill_up(x)
        x = self.total(self.reshape(x, (-1, self.blocks, self.rank)), 1)
        return self.product(x, self.cast(self.mindpet_delta_miss_block, self.compute_dtype))


def attach(net: Cell, config: MissConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Wrap every targeted nn.Dense. Returns the names of all matrices. Raises TargetError."""
    paths = resolve_targets(net, sites, config.target, config.exclude)
    table = cells(net)
    narrow = [path for path in paths if table[path].in_channels < config.rank]
    if narrow:
        raise TargetError(
            f"{narrow[0]} has {table[narrow[0]].in_channels} inputs, fewer than a block of delta.rank {config.rank}",
            hint="Lower --rank, or leave the layer out with --exclude.",
        )

    def make(dense: Cell, path: str) -> Cell:
        drop = Dropout(float(config.dropout), seed, path)
        return MissDense(dense.in_channels, dense.out_channels, config.rank, drop, **arguments_like(dense))

    return adapt(net, paths, make)


def merge(config: MissConfig, tensors: Tensors) -> Update:
    """Return the update that adds D[i mod R] to column i of W, in float32."""

    def update(name: str, value: Array, rows: slice = ALL) -> Array:
        path, _, leaf = name.rpartition(".")
        if leaf != "weight" or f"{path}.{MISS_BLOCK}" not in tensors:
            return value
        block = tensors[f"{path}.{MISS_BLOCK}"].astype(np.float32)[:, rows]
        merged: Array = value + block[np.arange(value.shape[1]) % len(block)].T
        return merged

    return update


def why_no_sum(config: MissConfig) -> str:
    """Return why its deltas do not add up."""
    return "of one matrix for all blocks of a layer's inputs, whose file does not say how many there are"


def switch(config: MissConfig, tensors: Tensors, sites: Sites, base: BaseValues) -> AdapterTensors:
    """Return the products, D^T times the matrix that adds up blocks, for a multi-adapter graph."""
    found = AdapterTensors()
    for path in layers_with(tensors, _TENSORS):
        block, weight = tensors[f"{path}.{MISS_BLOCK}"], base(f"{path}.weight")
        # The caller refuses a layer that is not there.
        width = len(block) if weight is None else weight.shape[1]
        adds = (np.arange(width) % len(block) == np.arange(len(block))[:, None]).astype(np.float32)
        found.products[path] = LowRankUpdate(b=np.ascontiguousarray(block.T), a=adds)
    return found


_TENSORS = {MISS_BLOCK: LayerTensor(axes=2, outputs=1)}

METHOD = Method(
    name="miss",
    config=MissConfig,
    default_lr=1e-3,
    attach=attach,
    tensors=_TENSORS,
    merge=merge,
    why_no_sum=why_no_sum,
    switch=switch,
    peft=("MISS",),
    why_not_split="adds up a layer's inputs in blocks, which do not follow the shards of ranks",
)
