"""LoRA: a frozen linear layer plus a trained product of two thin matrices.

    y = act(x W^T + b + s * dropout(x) A^T B^T),  s = alpha / R  (rsLoRA: alpha / sqrt(R))

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1; Kalajdzievski, "A Rank
Stabilization Scaling Factor for Fine-Tuning with LoRA", arXiv 2312.03732, theorem 3.2 (rsLoRA).

The cell is in lora_dense.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from mindspore import Tensor
from pydantic import Field, field_validator

from petrun.delta.base import Method, MethodConfig, Update
from petrun.delta.dense import adopt, arguments_like, drawn
from petrun.delta.lora_dense import LORA_A, LORA_B, LoRADense
from petrun.errors import TargetError, did_you_mean
from petrun.graph.sites import Sites
from petrun.graph.surgery import resolve_targets, swap
from petrun.kernels import Dropout
from petrun.tensors import Array

__all__ = ["LORA_A", "LORA_B", "METHOD", "LoRADense", "LoraConfig", "attach", "fold"]


class LoraConfig(MethodConfig):
    """Settings of LoRA."""

    rank: int = Field(8, ge=1, description="rows of A: the rank of the update")
    alpha: float = Field(16.0, description="scale of the update; s = alpha / rank")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="on the input of A, while training")
    target: tuple[str, ...] | None = Field(
        None, description="roles, layer names, globs over full paths, or all-linear; default: the family's"
    )
    exclude: tuple[str, ...] = Field((), description="the same, taken away from target")
    variant: Literal["lora", "rslora"] = Field("lora", description="rslora scales by alpha / sqrt(rank)")
    rank_pattern: dict[str, int] = Field(default_factory=dict, description="path -> rank, where it differs")
    alpha_pattern: dict[str, float] = Field(default_factory=dict, description="path -> alpha, where it differs")

    @field_validator("target", "exclude", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(t.strip() for t in value.split(",") if t.strip()) if isinstance(value, str) else value

    @field_validator("alpha")
    @classmethod
    def _not_zero(cls, value: float) -> float:
        if value == 0 or not math.isfinite(value):
            raise ValueError("alpha must be a finite number other than 0")
        return value

    @field_validator("rank_pattern")
    @classmethod
    def _positive(cls, value: dict[str, int]) -> dict[str, int]:
        wrong = [path for path, rank in value.items() if rank < 1]
        if wrong:
            raise ValueError(f"rank must be at least 1 for {', '.join(wrong)}")
        return value

    def site(self, path: str) -> tuple[int, float]:
        """(rank, scale) of the layer at `path`."""
        rank = self.rank_pattern.get(path, self.rank)
        alpha = self.alpha_pattern.get(path, self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.variant == "rslora" else rank)


def wrap_dense(dense: Any, path: str, config: LoraConfig, seed: int) -> Any:
    """A LoRADense around an existing nn.Dense: the base's parameters are kept as they are, A is drawn, B is zero."""
    rank, scale = config.site(path)
    cell = LoRADense(
        dense.in_channels,
        dense.out_channels,
        rank,
        scale * rank,
        float(config.dropout),
        lora_a_init=Tensor(drawn(path, (rank, dense.in_channels), dense.in_channels, seed)),
        **arguments_like(dense),
    )
    cell.scaling = scale
    cell.lora_dropout = Dropout(float(config.dropout), seed, path)
    return adopt(cell, dense)


def attach(net: Any, config: LoraConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Wrap every targeted nn.Dense. Returns the names of all A and B. Raises TargetError."""
    paths = resolve_targets(net, sites, config.target, config.exclude)
    _check_patterns(config, paths)

    def builder(path: str) -> Any:
        return lambda dense: wrap_dense(dense, path, config, seed)

    return swap(net, {path: builder(path) for path in paths})


def _check_patterns(config: LoraConfig, paths: tuple[str, ...]) -> None:
    problems = [
        f"delta.{name}: {key} is none of the adapted layers. {did_you_mean(key, paths)}"
        for name in ("rank_pattern", "alpha_pattern")
        for key in getattr(config, name)
        if key not in paths
    ]
    if problems:
        raise TargetError(
            "\n".join(problems), hint="Its keys are whole paths of layers, as `petrun inspect` lists them."
        )


def fold(config: LoraConfig, tensors: Mapping[str, Array]) -> Update:
    """W <- W + s B A, in float32."""

    def update(name: str, value: Array) -> Array:
        path, _, leaf = name.rpartition(".")
        a = tensors.get(f"{path}.{LORA_A}")
        b = tensors.get(f"{path}.{LORA_B}")
        if leaf == "weight" and a is not None and b is not None:
            _, scale = config.site(path)
            product = b.astype(np.float32) @ a.astype(np.float32)
            merged: Array = value + np.float32(scale) * product
            return merged
        return value

    return update


METHOD = Method(name="lora", config=LoraConfig, default_lr=1e-3, attach=attach, fold=fold)
