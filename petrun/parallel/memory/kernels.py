"""What the operators of petrun.kernels and the layers that families share keep: one function for a class of cells, in CELLS.

Each function follows the cell's `construct` on a Recorder and returns its result. B batch, T tokens, H hidden, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mindspore import nn

from petrun import kernels
from petrun.graph.packed_weight import PackedDense, packed_of
from petrun.kernels import flash
from petrun.models import parts
from petrun.parallel.memory.recorder import Recorder
from petrun.parallel.memory.tape import Value
from petrun.typing import Cell


def rms_norm(r: Recorder, cell: Cell, x: Value) -> Value:
    weight = r.parameter(cell.weight)
    if r.fused(x):
        return r.record([x, weight], x.shape, x.item_bytes, keeps=[x])
    wide = r.cast(x, 4)
    return r.cast(r.record([wide, weight], x.shape, 4, keeps=[wide]), x.item_bytes)


def layer_norm(r: Recorder, cell: Cell, x: Value, residual: Value | None = None) -> Value:
    weight, bias = r.parameter(cell.weight), r.parameter(cell.bias)
    if r.fused(x):
        if residual is None:
            return r.record([x, weight, bias], x.shape, 4, keeps=[x])
        # One operator with two results, the second of which is only kept.
        total = r.record([x, residual], x.shape, 4, passes=True)
        return r.record([total, weight, bias], x.shape, 4, keeps=[total])
    if residual is not None:
        x = r.add(x, residual)
    wide = r.cast(x, 4)
    return r.cast(r.record([wide, weight, bias], x.shape, 4, keeps=[wide]), x.item_bytes)


def dropout(r: Recorder, cell: Cell, x: Value) -> Value:
    if cell.p == 0.0:
        return x
    if r.fused(x):
        return r.record([x], x.shape, 4)
    mask = r.mask(x.shape, x.item_bytes)
    return r.record([x, mask], x.shape, x.item_bytes, keeps=[mask])


def dense(r: Recorder, cell: Cell, x: Value) -> Value:
    """x W^T + b."""
    return dense_of_all(r, cell, r.all_tokens(cell, x))


def dense_of_all(r: Recorder, cell: Cell, x: Value) -> Value:
    """x W^T + b, of the tokens of all ranks."""
    packed = packed_of(cell)
    y = r.product(x, cell.weight, cell) if packed is None else r.packed_product(x, packed, cell)
    return r.plus_bias(y, cell.bias) if cell.has_bias else y


def embedding(r: Recorder, cell: Cell, ids: Value) -> Value:
    table = r.gathered(r.parameter(cell.weight))
    x = r.record([ids, table], (*ids.shape, cell.width), table.item_bytes)
    return r.cast(x, r.item_bytes)


def split_heads(r: Recorder, cell: Cell, x: Value) -> Value:
    b, t, h = x.shape
    return r.record([x], (b, h // cell.width, t, cell.width), x.item_bytes)


def merge_heads(r: Recorder, cell: Cell, x: Value) -> Value:
    b, n, t, d = x.shape
    return r.record([x], (b, t, n * d), x.item_bytes)


def split_qkv(r: Recorder, cell: Cell, x: Value) -> tuple[Value, Value, Value]:
    b, t, h = x.shape
    shape = (b, h // (3 * cell.width), t, cell.width)
    if r.fused(x):
        # One operator with three results, and one gradient for all of them.
        rest = r.without_gradient_bytes(x)
        return r.record([x], shape, 4), r.record([rest], shape, 4), r.record([rest], shape, 4)
    wide = r.record([x], x.shape, x.item_bytes)
    q, k, v = (r.record([wide], shape, x.item_bytes) for _ in range(3))
    return q, k, v


def rope(r: Recorder, cell: Cell, x: Value, cos: Value, sin: Value) -> Value:
    if r.fused(x):
        return r.record([x, cos, sin], x.shape, 4)
    return r.record([x, cos, sin], x.shape, x.item_bytes, work=(3 * x.bytes, 2 * x.bytes))


def attention(r: Recorder, cell: Cell, q: Value, k: Value, v: Value, mask: Value) -> Value:
    b, n, t, d = q.shape
    s = k.shape[2]
    if r.fused(q) and cell.cap is None:
        scales = r.record([q], (b, n, t, 2), 4)
        return r.record([q, k, v, mask], q.shape, 4, keeps=[q, k, v, mask, scales])
    if r.ascend and cell.cap is None and q.item_bytes == 2 and flash.takes_width(d) and (cell.p == 0.0 or s % 8 == 0):
        return _flash(r, cell, q, k, v, mask)
    groups = n // k.shape[1]
    if groups > 1:
        k, v = (r.record([x], (b, n, s, d), x.item_bytes) for x in (k, v))
    scores = r.cast(r.record([q, k], (b, n, t, s), q.item_bytes, keeps=[q, k]), 4)
    scores = r.record([scores], scores.shape, 4, passes=True)
    if cell.cap is not None:
        scores = r.run(cell.cap, scores)
    return _weighted_values(r, cell, scores, v)


def biased_attention(r: Recorder, cell: Cell, q: Value, k: Value, v: Value, mask: Value, bias: Value) -> Value:
    b, n, t, _ = q.shape
    scores = r.cast(r.record([q, k], (b, n, t, k.shape[2]), q.item_bytes, keeps=[q, k]), 4)
    r.broadcasts(scores.shape)
    return _weighted_values(r, cell, r.record([scores, bias], scores.shape, 4, passes=True), v)


def _weighted_values(r: Recorder, cell: Cell, scores: Value, v: Value) -> Value:
    b, n, t, _ = scores.shape
    shape, item_bytes = (b, n, t, v.shape[3]), v.item_bytes
    work = scores.bytes
    probs = r.record([scores], scores.shape, 4, keeps_result=True, work=(work, work))
    if cell.p > 0.0:
        drawn = r.mask(probs.shape, 4)
        probs = r.record([probs, drawn], probs.shape, 4, keeps=[drawn])
    weighed = r.cast(r.record([probs], probs.shape, 4), item_bytes)
    return r.record([weighed, v], shape, item_bytes, keeps=[weighed, v])


def _flash(r: Recorder, cell: Cell, q: Value, k: Value, v: Value, mask: Value) -> Value:
    """FlashAttentionScore, whose gradient needs its result, and two numbers for each score's row, eight times."""
    b, n, t, _ = q.shape
    hidden = r.hidden(mask)
    keeps = [q, k, v, hidden, r.record([q], (2, b, n, t, 8), 4)]
    if cell.p > 0.0:
        keeps.append(r.mask((b, n * r.layout.tp, t, k.shape[2]), 4, packed=True))
    out = r.record([q, k, v, hidden], q.shape, q.item_bytes, keeps=keeps, keeps_result=True)
    return r.record([out], out.shape, out.item_bytes)


def gelu(r: Recorder, cell: Cell, x: Value) -> Value:
    if r.fused(x) or r.ascend:
        return r.record([x], x.shape, x.item_bytes, keeps=[x])
    wide = r.cast(x, 4)
    return r.cast(r.record([wide], x.shape, 4, keeps=[wide], work=(2 * wide.bytes, 0)), x.item_bytes)


def silu_mul(r: Recorder, cell: Cell, gate: Value, up: Value) -> Value:
    if r.fused(gate):
        return r.record([gate, up], gate.shape, 4, keeps=[gate, up])
    wide = r.cast(gate, 4)
    sigmoid = r.record([wide], gate.shape, 4, keeps_result=True)
    gated = r.cast(r.record([wide, sigmoid], gate.shape, 4, keeps=[wide, sigmoid]), gate.item_bytes)
    return r.record([gated, up], gate.shape, gate.item_bytes, keeps=[gated, up])


def soft_cap(r: Recorder, cell: Cell, x: Value) -> Value:
    return r.record([r.run(cell.tanh, r.record([x], x.shape, x.item_bytes))], x.shape, x.item_bytes)


def elementwise(r: Recorder, cell: Cell, x: Value) -> Value:
    """An activation of one operator, whose gradient needs its input."""
    return r.record([x], x.shape, x.item_bytes, keeps=[x])


def sigmoid_product(r: Recorder, cell: Cell, x: Value) -> Value:
    """x * sigmoid(c x)."""
    gate = r.record([x], x.shape, x.item_bytes, keeps_result=True)
    return r.record([x, gate], x.shape, x.item_bytes, keeps=[x, gate])


def unchanged(r: Recorder, cell: Cell, x: Value) -> Value:
    return x


def feed_forward(r: Recorder, cell: Cell, x: Value) -> Value:
    return r.run(cell.down, r.run(cell.act, r.run(cell.up, x)))


def in_a_row(r: Recorder, cell: Cell, x: Value) -> Value:
    """The cells of a container, one after the other."""
    for inner in cell.cells():
        x = r.run(inner, x)
    return x


def cross_entropy(r: Recorder, logits: Value) -> Value:
    """kernels.TokenCrossEntropy of logits (M, V)."""
    rows = logits.shape[:1]
    if r.fused(logits):
        return r.record([logits], rows, 4, keeps=[logits])
    shifted = r.record([logits], logits.shape, 4)
    total = r.record([r.record([shifted], logits.shape, 4, keeps_result=True)], rows, 4)
    return r.add(total, r.record([shifted], rows, 4))


CELLS: Mapping[type[Cell], Callable[..., Value | tuple[Value, ...]]] = {
    kernels.RmsNorm: rms_norm,
    kernels.OffsetRmsNorm: rms_norm,
    kernels.LayerNorm: layer_norm,
    kernels.Dropout: dropout,
    kernels.SplitHeads: split_heads,
    kernels.MergeHeads: merge_heads,
    kernels.SplitQkv: split_qkv,
    kernels.Rope: rope,
    kernels.Attention: attention,
    kernels.BiasedAttention: biased_attention,
    kernels.Gelu: gelu,
    kernels.GeluTanh: gelu,
    kernels.SiluMul: silu_mul,
    kernels.SoftCap: soft_cap,
    kernels.Tanh: elementwise,
    nn.ReLU: elementwise,
    nn.Sigmoid: elementwise,
    nn.Tanh: elementwise,
    nn.SequentialCell: in_a_row,
    parts.Relu: elementwise,
    parts.Relu2: sigmoid_product,
    parts.Silu: sigmoid_product,
    parts.Sigmoid1702: sigmoid_product,
    parts.Linear: unchanged,
    parts.Dense: dense,
    PackedDense: dense,
    parts.Embedding: embedding,
    parts.FeedForward: feed_forward,
}
