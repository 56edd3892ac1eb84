"""LoRA: a frozen linear layer plus a trained product of two thin matrices.

    y = act(x W^T + b + s * dropout(x) A^T B^T),  s = alpha / R  (rsLoRA: alpha / sqrt(R))

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1; Kalajdzievski, "A Rank
Stabilization Scaling Factor for Fine-Tuning with LoRA", arXiv 2312.03732, theorem 3.2 (rsLoRA); Hayou et al., "LoRA+: Efficient Low
Rank Adaptation of Large Models", arXiv 2402.12354, equations 6 and 7: B's learning rate is `lora_plus_ratio` times A's.

dense.py holds the cell, embedding.py that of embeddings; dora.py and pissa.py hold what these variants do otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from mindspore import Tensor
from pydantic import Field

from petrun.delta.dense import adopt, arguments_like, drawn
from petrun.delta.forms import (
    AdapterTensors,
    BaseValues,
    LayerTensor,
    LowRankUpdate,
    Tensors,
    factors_of,
    layers_with,
)
from petrun.delta.lora.dense import LORA_A, LORA_B, LORA_BIAS, BiasedLoraDense, LoRADense
from petrun.delta.lora.dora import LORA_M, DoraDense, rescaled
from petrun.delta.lora.embedding import LoRAEmbedding
from petrun.delta.lora.pissa import LORA_A0, LORA_B0, PissaDense
from petrun.delta.method import ALL, OF_THE_RUN, Method, Update
from petrun.delta.parts import draw_normal
from petrun.delta.ranks import RankedConfig, check_patterns
from petrun.errors import DeltaError, TargetError
from petrun.graph.packed_weight import is_outlined
from petrun.graph.sites import Sites
from petrun.graph.surgery import cells, resolve_targets, swap
from petrun.kernels import Dropout
from petrun.tensors import Array
from petrun.typing import Cell

__all__ = ["LORA_A", "LORA_B", "METHOD", "LoRADense", "LoraConfig", "attach", "merge"]

_LISTED = 20
_CELLS: dict[str, type[LoRADense]] = {"lora": LoRADense, "rslora": LoRADense, "dora": DoraDense, "pissa": PissaDense}


class LoraConfig(RankedConfig):
    """Settings of LoRA."""

    rank: int = Field(8, ge=1, description="rows of A: the rank of the update")
    dropout: Annotated[float, OF_THE_RUN] = Field(0.0, ge=0.0, lt=1.0, description="on the input of A, while training")
    variant: Literal["lora", "rslora", "dora", "pissa"] = Field(
        "lora",
        description="rslora scales by alpha / sqrt(rank); dora trains magnitudes apart; pissa starts from W's largest singular triples",
    )
    lora_plus_ratio: Annotated[float, OF_THE_RUN] = Field(
        1.0, gt=0.0, description="LoRA+: learning rate of B over that of A; 1 is off"
    )
    bias: bool = Field(
        False, description="a trained bias on B of linear layers, scaled as the product is (peft's lora_bias)"
    )

    def site(self, path: str) -> tuple[int, float]:
        """(rank, scale) of the layer at `path`."""
        rank, scale = super().site(path)
        return rank, self.alpha_pattern.get(path, self.alpha) / math.sqrt(rank) if self.variant == "rslora" else scale


def wrap_dense(dense: Cell, path: str, config: LoraConfig, seed: int) -> Cell:
    """Make the variant's cell around an existing nn.Dense: the base's parameters are kept, A is drawn, B is zero."""
    rank, scale = config.site(path)
    make = BiasedLoraDense if config.bias else _CELLS[config.variant]
    cell = make(
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
    adopt(cell, dense)
    if not is_outlined(dense):
        cell.start()
    return cell


def wrap_table(table: Cell, path: str, config: LoraConfig, seed: int) -> Cell:
    """Make the cell around an existing embedding: its table is kept, A is drawn, B is zero."""
    rank, scale = config.site(path)
    return LoRAEmbedding(table, draw_normal(seed, path, (rank, table.width), 1.0), scale)


def adapted_paths(net: Cell, config: LoraConfig, sites: Sites) -> tuple[str, ...]:
    """Return the paths of the linear layers and embeddings that the settings name. Raises TargetError."""
    paths = resolve_targets(net, sites, config.target, config.exclude, tables=True)
    tables = [path for path in paths if path in sites.tables]
    if config.bias and config.variant in ("dora", "pissa"):
        raise TargetError(
            f"delta.bias: has no place in the variant {config.variant}", hint="Use the variant lora or rslora."
        )
    if tables and config.variant in ("dora", "pissa"):
        raise TargetError(
            f"delta.variant {config.variant} adapts linear layers, and {tables[0]} is an embedding",
            hint="Leave the embedding out, or use the variant lora or rslora.",
        )
    return paths


def attach(net: Cell, config: LoraConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Wrap every targeted nn.Dense and embedding. Returns the names of A, B and what the variant adds. Raises TargetError."""
    paths = adapted_paths(net, config, sites)
    check_patterns(config, paths)
    if config.variant == "pissa":
        _check_ranks(net, config, [path for path in paths if path not in sites.tables])

    def builder(path: str) -> Callable[[Cell], Cell]:
        wrap = wrap_table if path in sites.tables else wrap_dense
        return lambda cell: wrap(cell, path, config, seed)

    return swap(net, {path: builder(path) for path in paths})


def _check_ranks(net: Cell, config: LoraConfig, paths: Iterable[str]) -> None:
    """Raises TargetError for a rank above a matrix's shorter side, which is the number of its singular triples."""
    table = cells(net)
    problems = []
    for path in paths:
        rank, _ = config.site(path)
        rows, columns = table[path].out_channels, table[path].in_channels
        if rank > min(rows, columns):
            problems.append(
                f"{path} is {rows} x {columns}: it has {min(rows, columns)} singular triples, rank is {rank}"
            )
    if problems:
        more = [f"... and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        raise TargetError(
            "\n  ".join(["delta.variant pissa:", *problems[:_LISTED], *more]),
            hint="Lower --rank, or leave these layers out with --exclude.",
        )


def rate(config: LoraConfig, name: str) -> float:
    """Return the factor of LoRA+ on the learning rate: `lora_plus_ratio` for B, 1 for others."""
    return config.lora_plus_ratio if name.rpartition(".")[2] == LORA_B else 1.0


def merge(config: LoraConfig, tensors: Tensors) -> Update:
    """W <- W + s B A, in float32; pissa: W + s (B A - B_0 A_0); dora: m (W + s B A) / ||W + s B A||."""

    @lru_cache(maxsize=10)
    def factor(name: str) -> Array:
        # Of the layer at hand, or two where two files are written: a matrix may come in many blocks of rows, the tensors lie in a file.
        return tensors[name].astype(np.float32)

    def product(path: str, b: str, a: str, rows: slice) -> Array:
        found: Array = factor(f"{path}.{b}")[rows] @ factor(f"{path}.{a}")
        return found

    def update(name: str, value: Array, rows: slice = ALL) -> Array:
        path, _, leaf = name.rpartition(".")
        if leaf == "bias" and f"{path}.{LORA_BIAS}" in tensors:
            shifted: Array = value + np.float32(config.site(path)[1]) * factor(f"{path}.{LORA_BIAS}")[rows]
            return shifted
        if leaf != "weight" or f"{path}.{LORA_A}" not in tensors:
            return value
        _, scale = config.site(path)
        change = product(path, LORA_B, LORA_A, rows)
        if config.variant == "pissa":
            change -= product(path, LORA_B0, LORA_A0, rows)
        # In place: of a large layer there are only the base's matrix and this one.
        change *= np.float32(scale)
        change += value
        merged: Array = change
        return rescaled(merged, factor(f"{path}.{LORA_M}")[rows]) if config.variant == "dora" else merged

    return update


_TENSORS = {
    LORA_A: LayerTensor(axes=2, inputs=1),
    LORA_B: LayerTensor(axes=2, outputs=0),
    LORA_A0: LayerTensor(axes=2, inputs=1),
    LORA_B0: LayerTensor(axes=2, outputs=0),
    LORA_M: LayerTensor(axes=1, outputs=0),
    LORA_BIAS: LayerTensor(axes=1, outputs=0, into_bias=True),
}


def low_rank(config: LoraConfig, tensors: Tensors) -> Iterator[tuple[str, LowRankUpdate]]:
    """s B A of every layer; pissa: s [B, -B_0] [A; A_0], of twice the rank. DoRA's magnitudes and a bias on B come on top of it.

    Raises DeltaError: a matrix without its partner, shapes that do not multiply or contradict the settings.
    """
    for path in layers_with(tensors, _TENSORS):
        rank, scale = config.site(path)
        update = factors_of(tensors, path, LORA_A, LORA_B, rank)
        a, b = update.a, update.b
        if config.variant == "pissa":
            start = factors_of(tensors, path, LORA_A0, LORA_B0, rank)
            if start.b.shape != b.shape or start.a.shape != a.shape:
                shapes = [(len(u.b), u.a.shape[1]) for u in (update, start)]
                raise DeltaError(f"{path} has matrices {shapes[0]} and initial ones {shapes[1]}")
            a, b = np.concatenate((a, start.a), 0), np.concatenate((b, -start.b), 1)
        yield path, LowRankUpdate(a=a, b=b, scale=scale)


def why_no_sum(config: LoraConfig) -> str | None:
    """Return why its deltas do not add up: DoRA and a bias on B are not a product of two matrices."""
    if config.variant == "dora":
        return "whose DoRA magnitudes multiply base and update together: it is no sum"
    return "with a bias on B (delta.bias), which a product of two matrices has no place for" if config.bias else None


def switch(config: LoraConfig, tensors: Tensors, sites: Sites, base: BaseValues) -> AdapterTensors:
    """Return the products; a bias on B after them; dora: m / ||W + s B A|| over the outputs, which does not scale the base's bias."""
    found = AdapterTensors()
    for path, update in low_rank(config, tensors):
        product = found.products[path] = update.scaled()
        if f"{path}.{LORA_BIAS}" in tensors:
            found.after[path] = np.ones(len(product.b), np.float32)
            found.shift[path] = np.float32(update.scale) * tensors[f"{path}.{LORA_BIAS}"]
        weight, bias = base(f"{path}.weight"), base(f"{path}.bias")
        # The caller refuses a layer that is not there, or has another size.
        if (
            f"{path}.{LORA_M}" in tensors
            and weight is not None
            and weight.shape == (len(product.b), product.a.shape[1])
        ):
            # Layer by layer: of a large one there is one copy.
            norms = np.linalg.norm(weight + product.b @ product.a, axis=1).astype(np.float64) + 1e-15
            ratio = tensors[f"{path}.{LORA_M}"].astype(np.float64) / norms
            found.after[path] = ratio.astype(np.float32)
            if bias is not None:
                found.shift[path] = (bias.astype(np.float64) * (1.0 - ratio)).astype(np.float32)
    return found


METHOD = Method(
    name="lora",
    config=LoraConfig,
    default_lr=1e-3,
    attach=attach,
    tensors=_TENSORS,
    merge=merge,
    low_rank=low_rank,
    why_no_sum=why_no_sum,
    switch=switch,
    peft=("LORA",),
    mindpet="lora",
    layers=adapted_paths,
    rate=rate,
    fixed=(LORA_A0, LORA_B0),
)
