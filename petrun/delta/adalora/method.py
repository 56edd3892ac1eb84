"""AdaLoRA: low-rank updates P diag(e) Q whose ranks share one budget, allocated by importance.

    y = act(x W^T + b + s * ((dropout(x) A^T) * e) B^T),   Q = A (R, in), P = B (out, R);   s = alpha / (R + 1e-5)
    loss = C + orth_weight * sum over layers of (||B^T B - I||^2 + ||A A^T - I||^2)         ||.||: Frobenius

Source: Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", arXiv 2303.10512, equations 3 to 5; the
budget is in budget.py. s is peft's, with the R that every layer begins with, so that its adapters compute the same here. peft
regularises with the norms, not their squares, averaged over the matrices, not summed: the same weight has another effect here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops
from pydantic import Field, ValidationInfo, field_validator

from petrun.delta.adalora.budget import RankAllocator, budget_plan
from petrun.delta.adalora.dense import ADALORA_A, ADALORA_B, ADALORA_E, ADALORA_KEEP, AdaLoraDense
from petrun.delta.dense import TargetConfig, adopt, arguments_like
from petrun.delta.forms import (
    AdapterTensors,
    BaseValues,
    LayerTensor,
    LowRankUpdate,
    Tensors,
    factors_of,
    layers_with,
    tensor_of,
)
from petrun.delta.method import ALL, OF_THE_RUN, Method, Update
from petrun.errors import ConfigError
from petrun.graph.sites import Sites
from petrun.graph.step_counts import step_count
from petrun.graph.surgery import resolve_targets, swap
from petrun.graph.unpacked import call_with
from petrun.kernels import is_supervised
from petrun.tensors import Array
from petrun.typing import Cell, Parameter

__all__ = ["ADALORA_A", "ADALORA_B", "ADALORA_E", "ADALORA_KEEP", "METHOD", "AdaLoraConfig", "attach", "merge"]


class AdaLoraConfig(TargetConfig):
    """Settings of AdaLoRA."""

    rank: int = Field(8, ge=1, description="rank that a layer has at the end, on average over the layers")
    init_rank: int | None = Field(None, ge=1, description="R, rank of every layer at first; default: 1.5 times rank")
    alpha: float = Field(16.0, gt=0.0, description="scale of the update; s = alpha / init_rank")
    dropout: Annotated[float, OF_THE_RUN] = Field(0.0, ge=0.0, lt=1.0, description="on the input of A, while training")
    orth_weight: Annotated[float, OF_THE_RUN] = Field(0.1, ge=0.0, description="weight of the orthogonality of A and B")
    tinit: Annotated[float, OF_THE_RUN] = Field(
        0.1, ge=0.0, description="updates before the first rank is given up; below 1 a share of all"
    )
    tfinal: Annotated[float, OF_THE_RUN] = Field(
        0.3, ge=0.0, description="updates after the last rank is given up; below 1 a share of all"
    )
    delta_t: Annotated[int, OF_THE_RUN] = Field(
        10, ge=1, description="updates from one allocation of ranks to the next"
    )
    beta1: Annotated[float, OF_THE_RUN] = Field(0.85, gt=0.0, lt=1.0, description="smoothing of the sensitivity")
    beta2: Annotated[float, OF_THE_RUN] = Field(0.85, gt=0.0, lt=1.0, description="smoothing of the uncertainty")

    @field_validator("init_rank")
    @classmethod
    def _above_rank(cls, value: int | None, info: ValidationInfo) -> int | None:
        rank = info.data.get("rank")
        if value is not None and rank is not None and value < rank:
            raise ValueError(f"must be at least rank, which is {rank}: ranks are given up, none is won")
        return value

    @property
    def width(self) -> int:
        """R of every layer."""
        return -(-3 * self.rank // 2) if self.init_rank is None else self.init_rank

    @property
    def scale(self) -> float:
        return self.alpha / (self.width + 1e-5)

    def phases(self, total_steps: int) -> tuple[int, int]:
        """Return (updates before, updates after the ranks are pruned). Raises ConfigError where none is left between them."""
        begin, end = step_count(self.tinit, total_steps), step_count(self.tfinal, total_steps)
        if begin + end >= total_steps:
            raise ConfigError(
                f"delta.tinit {self.tinit:g} and delta.tfinal {self.tfinal:g} are {begin} and {end} of the run's {total_steps} "
                "steps: none is left to give up ranks in",
                hint="Lower them, give them as shares below 1, or train longer with --steps or --epochs.",
            )
        return begin, end


def attach(net: Cell, config: AdaLoraConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Wrap every targeted nn.Dense. Returns the names of all A, e, B and masks. Raises TargetError."""
    paths = resolve_targets(net, sites, config.target, config.exclude)

    def wrap(dense: Cell, path: str) -> Cell:
        cell = AdaLoraDense(
            dense.in_channels,
            dense.out_channels,
            config.width,
            config.scale,
            float(config.dropout),
            seed,
            path,
            **arguments_like(dense),
        )
        return adopt(cell, dense)

    def builder(path: str) -> Callable[[Cell], Cell]:
        return lambda dense: wrap(dense, path)

    return swap(net, {path: builder(path) for path in paths})


def layers_of(net: Cell) -> list[AdaLoraDense]:
    """Return the adapted layers, in the net's order."""
    return [cell for _, cell in net.cells_and_names() if isinstance(cell, AdaLoraDense)]


class OrthogonalLoss(nn.Cell):
    """Adds equation 4 to another loss.

    Inputs and Returns: as the inner loss. A micro-batch adds the regulariser in proportion to its supervised items, so that it counts
    once a step for any number of micro-batches.
    """

    def __init__(self, loss: Cell, layers: list[AdaLoraDense], weight: float) -> None:
        super().__init__(auto_prefix=False)
        self.loss = loss
        self.weight = weight
        self.rights = ParameterTuple([layer.mindpet_delta_adalora_a for layer in layers])
        self.lefts = ParameterTuple([layer.mindpet_delta_adalora_b for layer in layers])
        self.identity = Tensor(np.eye(layers[0].mindpet_delta_adalora_e.shape[0], dtype=np.float32))
        self.outer = ops.MatMul(transpose_b=True)
        self.inner = ops.MatMul(transpose_a=True)

    def construct(self, denominator: Tensor, targets: Tensor, *inputs: Tensor) -> Tensor:
        value, logits = call_with(self.loss, (denominator, targets, *inputs))
        share = ops.cast(is_supervised(targets), ms.float32).sum() / denominator
        return value + self.weight * share * self.skewness(), logits

    def skewness(self) -> Tensor:
        """Return the sum over layers of ||B^T B - I||^2 + ||A A^T - I||^2, () float32."""
        total = 0.0
        for k in range(len(self.rights)):
            right = self.outer(self.rights[k], self.rights[k]) - self.identity
            left = self.inner(self.lefts[k], self.lefts[k]) - self.identity
            total = total + ops.square(right).sum() + ops.square(left).sum()
        return total


def wrap_loss(loss: Cell, net: Cell, config: AdaLoraConfig) -> Cell:
    """Return the loss with the regulariser, where that is on."""
    return OrthogonalLoss(loss, layers_of(net), config.orth_weight) if config.orth_weight > 0.0 else loss


def hook(net: Cell, config: AdaLoraConfig, parameters: Sequence[Parameter], total_steps: int) -> RankAllocator:
    """Return the rank allocator of a run of so many steps. Raises ConfigError where the run is too short for its phases."""
    layers = layers_of(net)
    begin, end = config.phases(total_steps)
    plan = budget_plan(len(layers) * config.width, len(layers) * config.rank, begin, end, config.delta_t, total_steps)
    return RankAllocator(layers, parameters, beta1=config.beta1, beta2=config.beta2, plan=plan)


def merge(config: AdaLoraConfig, tensors: Tensors) -> Update:
    """Return the update W <- W + s B diag(e * keep) A, in float32."""

    def update(name: str, value: Array, rows: slice = ALL) -> Array:
        path, _, leaf = name.rpartition(".")
        if leaf != "weight" or f"{path}.{ADALORA_A}" not in tensors:
            return value
        a, b, e, keep = (
            tensors[f"{path}.{part}"].astype(np.float32) for part in (ADALORA_A, ADALORA_B, ADALORA_E, ADALORA_KEEP)
        )
        merged: Array = (b[rows] * (e * keep * np.float32(config.scale))) @ a
        merged += value
        return merged

    return update


_TENSORS = {
    ADALORA_A: LayerTensor(axes=2, inputs=1),
    ADALORA_B: LayerTensor(axes=2, outputs=0),
    ADALORA_E: LayerTensor(axes=1),
    ADALORA_KEEP: LayerTensor(axes=1),
}


def low_rank(config: AdaLoraConfig, tensors: Tensors) -> Iterator[tuple[str, LowRankUpdate]]:
    """Return s (B diag(e)) A of every layer, with the triplets in use. Raises DeltaError: a tensor without its partners, shapes that
    differ.
    """
    for path in layers_with(tensors, _TENSORS):
        e, keep = (tensor_of(tensors, path, leaf).reshape(-1) for leaf in (ADALORA_E, ADALORA_KEEP))
        values = e * keep
        every = factors_of(tensors, path, ADALORA_A, ADALORA_B, len(values))
        used = np.flatnonzero(values)
        # A layer whose triplets were all pruned keeps one that is zero, because LoRA has no rank 0.
        used = used if len(used) else np.zeros(1, np.int64)
        b, a = every.b[:, used] * values[used], np.ascontiguousarray(every.a[used])
        yield path, LowRankUpdate(b=b, a=a, scale=config.alpha / (len(values) + 1e-5))


def switch(config: AdaLoraConfig, tensors: Tensors, sites: Sites, base: BaseValues) -> AdapterTensors:
    """Return the products of the delta for a multi-adapter graph."""
    return AdapterTensors(products={path: update.scaled() for path, update in low_rank(config, tensors)})


METHOD = Method(
    name="adalora",
    config=AdaLoraConfig,
    default_lr=3e-3,
    attach=attach,
    tensors=_TENSORS,
    merge=merge,
    low_rank=low_rank,
    switch=switch,
    peft=("ADALORA",),
    wrap_loss=wrap_loss,
    hook=hook,
    fixed=(ADALORA_KEEP,),
)
