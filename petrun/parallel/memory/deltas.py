"""What the cells of the methods keep: one function for a class of cells, in CELLS. Each follows the cell's `construct`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from petrun.delta import adapter, dense, ia3, parts, prefix, prompt, ptuning2
from petrun.delta.lora.dense import LoRADense
from petrun.delta.lora.pissa import PissaDense
from petrun.graph import virtual_tokens
from petrun.kernels import named_activations
from petrun.parallel.memory import kernels
from petrun.parallel.memory.recorder import Recorder
from petrun.parallel.memory.tape import Value
from petrun.typing import Cell


def lora_dense(r: Recorder, cell: Cell, x: Value) -> Value:
    """x W^T + b + s * (x A^T) B^T."""
    x = r.all_tokens(cell, x)
    y = kernels.dense_of_all(r, cell, x)
    low = r.product(r.run(cell.lora_dropout, x), cell.mindpet_delta_lora_a, width=cell.lora_rank)
    if r.roles.get(id(cell)) == "row":
        low = r.summed(low)
    update = r.product(low, cell.mindpet_delta_lora_b, width=y.shape[-1])
    update = r.record([update], update.shape, update.item_bytes)
    return r.add(y, update)


def cast_dense(r: Recorder, cell: Cell, x: Value) -> Value:
    y = kernels.dense(r, cell, x)
    return r.run(cell.activation, y) if cell.activation_flag else y


def ia3_dense(r: Recorder, cell: Cell, x: Value) -> Value:
    """The product, its input or its result scaled in float32."""
    if cell.feedforward:
        return kernels.dense(r, cell, _scaled(r, x, cell.mindpet_delta_ia3_l_ff))
    return _scaled(r, kernels.dense(r, cell, x), cell.mindpet_delta_ia3_l)


def _scaled(r: Recorder, x: Value, parameter: Any) -> Value:
    """kernels.ScaleColumns, in float32."""
    wide, scale = r.cast(x, 4), r.parameter(parameter)
    # Of primitives the gradient of the scale is a sum over rows of a product as large as x; the C++ operator needs none.
    work = 0 if r.fused(wide) else wide.bytes
    return r.cast(r.record([wide, scale], x.shape, 4, keeps=[wide], work=(0, work)), x.item_bytes)


def adapter_layer(r: Recorder, cell: Cell, x: Value) -> Value:
    return r.add(x, r.run(cell.mindpet_delta_adapter_block, x))


def adapter_dense(r: Recorder, cell: Cell, x: Value) -> Value:
    return r.run(cell.mindpet_delta_adapter, cast_dense(r, cell, x))


def prefixed_core(r: Recorder, cell: Cell, q: Value, k: Value, v: Value, mask: Value, *more: Value) -> Value:
    learned = r.run(cell.encoder)
    count = learned.shape[2]
    rows, heads, tokens, width = k.shape
    joined = []
    for own in (k, v):
        widened = r.record([learned], (rows, heads, count, width), k.item_bytes)
        joined.append(r.record([widened, own], (rows, heads, count + tokens, width), k.item_bytes))
    return r.run(cell.core, q, *joined, mask, *more)


def prompted_embedding(r: Recorder, cell: Cell, ids: Value) -> Value:
    return r.run(cell.base, ids)


def table(r: Recorder, cell: Cell) -> Value:
    stored = r.parameter(cell.table)
    return r.record([stored], stored.shape, 4)


def affine(r: Recorder, cell: Cell, x: Value) -> Value:
    return r.plus_bias(r.product(x, cell.weight, width=cell.weight.shape[0]), cell.bias)


def trunk(r: Recorder, cell: Cell) -> Value:
    return r.run(cell.tanh, r.run(cell.dense_in, r.run(cell.embedding)))


def projected(r: Recorder, cell: Cell) -> Value:
    return r.run(cell.dense_out, r.run(cell.trunk))


def prefix_source(r: Recorder, cell: Cell) -> Value:
    flat = r.run(cell.dropout, r.run(cell.source))
    two, heads, width = cell.sizes
    return r.record([flat], (two, heads // r.layout.tp, flat.shape[0], width), 4)


def inner(name: str) -> Callable[[Recorder, Cell], Value]:
    """Follow the one cell that a cell holds under this name."""

    def follow(r: Recorder, cell: Cell) -> Value:
        found: Value = r.run(getattr(cell, name))
        return found

    return follow


CELLS: Mapping[type[Cell], Callable[..., Any]] = {
    LoRADense: lora_dense,
    PissaDense: lora_dense,
    dense.CastDense: cast_dense,
    ia3.IA3Dense: ia3_dense,
    adapter.AdapterLayer: adapter_layer,
    adapter.AdapterDense: adapter_dense,
    virtual_tokens.PrefixedCore: prefixed_core,
    virtual_tokens.PromptedEmbedding: prompted_embedding,
    parts.Table: table,
    parts.Affine: affine,
    parts.Trunk: trunk,
    parts.Projected: projected,
    parts.Prefix: prefix_source,
    prefix.PrefixCell: inner("mindpet_delta_prefixtuning"),
    ptuning2.Ptuning2Cell: inner("mindpet_delta_ptuning2"),
    prompt.PromptCell: inner("mindpet_delta_prompt"),
    named_activations.GELU: lambda r, cell, x: kernels.gelu(r, cell, x),
    named_activations.Tanh: lambda r, cell, x: kernels.elementwise(r, cell, x),
    named_activations.SiLU: lambda r, cell, x: kernels.sigmoid_product(r, cell, x),
}
