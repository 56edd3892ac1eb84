"""What the nets of the families keep: one function for a class of cells, in CELLS. Each follows the cell's `construct`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from petrun.kernels import SplitGroupedQkv, SplitHeadsQkv
from petrun.models import (
    bert,
    bert_net,
    classes,
    decoder,
    decoder_layer,
    experts,
    llama_net,
    parts,
    roberta,
    rope,
    t5_net,
)
from petrun.parallel.memory.recorder import Recorder
from petrun.parallel.memory.tape import Value
from petrun.typing import Cell


def llama_attention(r: Recorder, cell: Cell, x: Value, cos: Value, sin: Value, mask: Value) -> Value:
    if isinstance(cell, llama_net.JoinedAttention):
        q, k, v = r.run(cell.split, _gathered_columns(r, r.run(cell.qkv, x)))
    else:
        q, k, v = (r.run(cell.split, r.run(project, x)) for project in (cell.q, cell.k, cell.v))
    if cell.normed:
        q, k = r.run(cell.q_norm, q), r.run(cell.k_norm, k)
    q, k = r.run(cell.rotate, q, cos, sin), r.run(cell.rotate, k, cos, sin)
    return r.run(cell.o, r.run(cell.merge, r.run(cell.core, q, k, v, mask)))


def llama_mlp(r: Recorder, cell: Cell, x: Value) -> Value:
    gate, up = (
        r.run(cell.halves, r.run(cell.gate_up, x)) if cell.is_joined else (r.run(cell.gate, x), r.run(cell.up, x))
    )
    return r.run(cell.down, _gated(r, cell, gate, up))


def sparse_mlp(r: Recorder, cell: Cell, x: Value) -> Value:
    b, t, hidden = x.shape
    count, wide = cell.gate.experts, cell.gate.out_channels
    every = r.record([x, r.parameter(cell.router.weight, x.item_bytes)], (b, t, count), 4)
    every = r.record([every], every.shape, 4)
    if r.fused(x):
        # By the experts that were chosen: as many rows of each product.
        rows = b * t * cell.count
        gate, up = (_by_experts(r, linear, x, (rows, wide)) for linear in (cell.gate, cell.up))
        made = _by_experts(r, cell.down, _gated(r, cell, gate, up), (rows, hidden))
        scaled = r.record([made, every], made.shape, x.item_bytes, keeps=[made])
        return r.record([scaled], x.shape, x.item_bytes)
    count //= r.layout.tp
    shares = r.record([every], (b, t, cell.count * cell.gate.experts), 4)
    gate, up = (_by_experts(r, linear, x, (b, t, count * wide)) for linear in (cell.gate, cell.up))
    apart = r.record([_gated(r, cell, gate, up)], (count, b * t, wide), x.item_bytes)
    made = _by_experts(r, cell.down, apart, (count, b * t, hidden))
    scaled = r.record([made, shares], made.shape, x.item_bytes, keeps=[made])
    return r.summed(r.record([scaled], x.shape, x.item_bytes))


def _by_experts(r: Recorder, linear: Cell, x: Value, shape: tuple[int, ...]) -> Value:
    weight = r.gathered(r.parameter(linear.weight, x.item_bytes))
    keeps = [x] if weight.needs_gradient else []
    # The C++ operator brings the rows of an expert together, and its results back.
    work = (x.item_bytes * sum(prod(s) for s in (shape, x.shape)) if r.fused(x) else 0,) * 2
    return r.record([x, weight], shape, x.item_bytes, keeps=keeps, work=work)


def _gated(r: Recorder, cell: Cell, gate: Value, up: Value) -> Value:
    return r.run(cell.act, gate, up) if cell.joined else r.run(cell.product, r.run(cell.act, gate), up)


def product(r: Recorder, cell: Cell, x: Value, y: Value) -> Value:
    return r.record([x, y], y.shape, y.item_bytes, keeps=[x, y])


def scale(r: Recorder, cell: Cell, x: Value) -> Value:
    return r.record([x], x.shape, x.item_bytes)


def llama_layer(r: Recorder, cell: Cell, x: Value, cos: Value, sin: Value, mask: Value) -> Value:
    attended = r.run(cell.attn, r.run(cell.attn_norm, x), cos, sin, mask)
    x = r.add(x, r.run(cell.attn_post_norm, attended) if cell.sandwiched else attended)
    fed = r.run(cell.mlp, r.run(cell.mlp_norm, x))
    return r.add(x, r.run(cell.mlp_post_norm, fed) if cell.sandwiched else fed)


def rotate_pairs(r: Recorder, cell: Cell, x: Value, cos: Value, sin: Value) -> Value:
    swapped = r.record([x], x.shape, x.item_bytes)
    straight = r.record([x], x.shape, x.item_bytes, keeps=[cos])
    return r.add(straight, r.record([swapped], x.shape, x.item_bytes, keeps=[sin]))


def split_gate_up(r: Recorder, cell: Cell, x: Value) -> tuple[Value, Value]:
    shape = (*x.shape[:-1], x.shape[-1] // 2)
    x = _gathered_columns(r, x)
    return r.record([x], shape, x.item_bytes), r.record([x], shape, x.item_bytes)


def split_grouped_qkv(r: Recorder, cell: Cell, x: Value) -> tuple[Value, ...]:
    # A rank has the queries, keys and values of its own heads.
    columns = (cell.queries // r.layout.tp, cell.keys // r.layout.tp, cell.keys // r.layout.tp)
    return tuple(r.run(cell.heads, r.record([x], (*x.shape[:-1], count), x.item_bytes)) for count in columns)


def split_heads_qkv(r: Recorder, cell: Cell, x: Value) -> tuple[Value, ...]:
    heads = r.run(cell.heads, x)
    shape = (*heads.shape[:-1], heads.shape[-1] // 3)
    return tuple(r.record([heads], shape, x.item_bytes) for _ in range(3))


def net_of_llama(r: Recorder, cell: Cell, ids: Value) -> Value:
    x = _enter(r, cell, ids)
    if r.is_first and cell.scales:
        x = r.run(cell.scale, x)
    rows, tokens = x.shape[0], x.shape[1]
    width = r.sites.head_dim
    cos, sin = (Value(shape=(rows, 1, tokens, width), item_bytes=x.item_bytes) for _ in range(2))
    mask = _mask(cell, rows, tokens)
    if r.layout.sequence:
        x = r.record([x], (rows, tokens // r.layout.tp, x.shape[2]), x.item_bytes)
    for layer in r.layers(cell.layers):
        x = r.run(layer, x, cos, sin, mask)
    if not r.is_last:
        return x
    x = r.run(cell.norm, _without_prompt(r, cell, x))
    if cell.classifies:
        return r.run(cell.score, r.run(cell.last, x))
    logits = _logits(r, r.run(cell.head, x))
    return r.run(cell.cap, logits) if cell.caps else logits


def last_token(r: Recorder, cell: Cell, x: Value) -> Value:
    x = _logits(r, x)
    return r.record([r.record([x], x.shape, 4)], (x.shape[0], x.shape[2]), 4, part="loss")


def self_attention(r: Recorder, cell: Cell, x: Value, mask: Value) -> Value:
    if cell.is_joined:
        joined = r.run(cell.qkv, x)
        # Where a head has its queries, keys and values side by side, a rank's columns are those of its heads.
        apart = isinstance(cell.split, SplitHeadsQkv)
        q, k, v = r.run(cell.split, joined if apart else _gathered_columns(r, joined))
    else:
        q, k, v = (r.run(cell.split, r.run(project, x)) for project in (cell.q, cell.k, cell.v))
    return r.run(cell.o, r.run(cell.merge, r.run(cell.core, q, k, v, mask)))


def layer_of_decoder(r: Recorder, cell: Cell, x: Value, mask: Value) -> Value:
    read = x if cell.is_post else r.run(cell.attn_norm, x)
    attended = r.run(cell.attn_dropout, r.run(cell.attn, read, mask))
    if cell.is_post:
        x = r.run(cell.attn_norm, attended, x)
        return r.run(cell.mlp_norm, r.run(cell.mlp_dropout, r.run(cell.mlp, x)), x)
    x = r.add(read if cell.keeps_normed else x, attended)
    read = r.run(cell.mlp_norm, x)
    return r.add(read if cell.keeps_normed else x, r.run(cell.mlp_dropout, r.run(cell.mlp, read)))


def decoder_net(r: Recorder, cell: Cell, ids: Value) -> Value:
    x = _enter(r, cell, ids)
    if r.is_first:
        place = r.tape.view(ids, x.shape[:2])
        x = r.run(cell.project_in, x) if cell.projects else x
        x = r.add(x, r.run(cell.positions, place)) if cell.has_positions else x
        x = r.run(cell.embed_norm, x) if cell.norms_embedding else x
        x = r.run(cell.dropout, x) if cell.drops else x
    mask = _mask(cell, x.shape[0], x.shape[1])
    for layer in r.layers(cell.layers):
        x = r.run(layer, x, mask)
    if not r.is_last:
        return x
    x = _without_prompt(r, cell, x)
    x = r.run(cell.norm, x) if cell.norms else x
    x = r.run(cell.project_out, x) if cell.projects else x
    return r.run(cell.score, r.run(cell.last, x)) if cell.classifies else _logits(r, r.run(cell.head, x))


def bert_attention(r: Recorder, cell: Cell, queries: Value, x: Value, mask: Value) -> Value:
    q, k, v = (r.run(cell.split, r.run(project, of)) for project, of in ((cell.q, queries), (cell.k, x), (cell.v, x)))
    return r.run(cell.o, r.run(cell.merge, r.run(cell.core, q, k, v, mask)))


def bert_layer(r: Recorder, cell: Cell, x: Value, mask: Value) -> Value:
    queries = x
    if cell.first_only:
        queries = r.record([x], (x.shape[0], 1, x.shape[2]), x.item_bytes)
        mask = Value(shape=(mask.shape[0], 1, 1, mask.shape[3]), item_bytes=1)
    x = r.run(cell.attn_norm, r.run(cell.attn_dropout, r.run(cell.attn, queries, x, mask)), queries)
    return r.run(cell.mlp_norm, r.run(cell.mlp_dropout, r.run(cell.mlp, x)), x)


def bert_embeddings(r: Recorder, cell: Cell, ids: Value) -> Value:
    words = _with_prompt(r, cell, cell.word, r.run(cell.word, ids))
    place = r.tape.view(ids, words.shape[:2])
    types = r.run(cell.token_type, place)
    positions = r.record([r.parameter(cell.position.weight)], (1, *words.shape[1:]), words.item_bytes)
    r.broadcasts(words.shape)
    x = r.record([r.add(words, types), positions], words.shape, words.item_bytes, passes=True)
    return r.run(cell.dropout, r.run(cell.norm, x))


def roberta_embeddings(r: Recorder, cell: Cell, ids: Value) -> Value:
    words = _with_prompt(r, cell, cell.word, r.run(cell.word, ids))
    place = r.tape.view(ids, words.shape[:2])
    kind = r.record([r.parameter(cell.token_type.weight)], (1, 1, words.shape[2]), words.item_bytes)
    x = r.record([words, kind], words.shape, words.item_bytes, passes=True)
    return r.run(cell.dropout, r.run(cell.norm, r.add(x, r.run(cell.position, place))))


def net_of_bert(r: Recorder, cell: Cell, ids: Value) -> Value:
    x = r.run(cell.embeddings, ids) if r.is_first else _received(r, ids, r.sites.hidden, cell.prompt_tokens)
    mask = _mask(cell, x.shape[0], x.shape[1])
    for layer in r.layers(cell.layers):
        x = r.run(layer, x, mask)
    if not r.is_last:
        return x
    if cell.tags:
        return r.run(cell.classifier, r.run(cell.dropout, _logits(r, _without_prompt(r, cell, x))))
    first = r.record([x], (x.shape[0], x.shape[2]), 4, part="loss")
    first = r.run(cell.first_dropout, first) if cell.drops_first else first
    pooled = r.run(cell.tanh, r.run(cell.pooler, first))
    return r.run(cell.classifier, r.run(cell.dropout, pooled))


def t5_attention(r: Recorder, cell: Cell, x: Value, mask: Value, bias: Value) -> Value:
    q, k, v = (r.run(cell.split, r.run(project, x)) for project in (cell.q, cell.k, cell.v))
    return r.run(cell.o, r.run(cell.merge, r.run(cell.core, q, k, v, mask, bias)))


def t5_cross_attention(r: Recorder, cell: Cell, x: Value, states: Value, mask: Value) -> Value:
    k, v = (r.run(cell.split, r.run(project, states)) for project in (cell.k, cell.v))
    q = r.run(cell.split, r.run(cell.q, x))
    return r.run(cell.o, r.run(cell.merge, r.run(cell.core, q, k, v, mask)))


def t5_feed_forward(r: Recorder, cell: Cell, x: Value) -> Value:
    if cell.is_gated:
        gate, up = r.run(cell.wi_0, x), r.run(cell.wi_1, x)
        inner = r.run(cell.times, r.run(cell.act, gate), up)
    else:
        inner = r.run(cell.act, r.run(cell.wi, x))
    return r.run(cell.wo, r.run(cell.dropout, inner))


def t5_encoder_layer(r: Recorder, cell: Cell, x: Value, mask: Value, bias: Value) -> Value:
    x = r.add(x, r.run(cell.attn_dropout, r.run(cell.attn, r.run(cell.attn_norm, x), mask, bias)))
    return r.add(x, r.run(cell.mlp_dropout, r.run(cell.mlp, r.run(cell.mlp_norm, x))))


def t5_target_layer(r: Recorder, cell: Cell, x: Value, mask: Value, bias: Value, states: Value, seen: Value) -> Value:
    x = r.add(x, r.run(cell.attn_dropout, r.run(cell.attn, r.run(cell.attn_norm, x), mask, bias)))
    crossed = r.run(cell.cross, r.run(cell.cross_norm, x), states, seen)
    x = r.add(x, r.run(cell.cross_dropout, crossed))
    return r.add(x, r.run(cell.mlp_dropout, r.run(cell.mlp, r.run(cell.mlp_norm, x))))


def relative_bias(r: Recorder, cell: Cell, queries: int, keys: int) -> Value:
    weight = r.parameter(cell.weight)
    return r.record([weight], (1, weight.shape[1] // r.layout.tp, queries, keys), 4)


def net_of_t5(r: Recorder, cell: Cell, ids: Value, targets: Value) -> Value:
    states = r.run(cell.encoder.dropout, _with_prompt(r, cell, cell.embed, r.run(cell.embed, ids)))
    rows, length = states.shape[:2]
    seen = Value(shape=(rows, 1, 1, length), item_bytes=1)
    bias = r.run(cell.encoder.bias, length, length)
    for layer in cell.encoder.layers:
        states = r.run(layer, states, seen, bias)
    states = r.run(cell.encoder.last_dropout, r.run(cell.encoder.norm, states))
    x = r.run(cell.decoder.dropout, r.run(cell.embed, targets))
    mask = _mask(cell, rows, x.shape[1])
    bias = r.run(cell.decoder.bias, x.shape[1], cell.prefix_tokens + x.shape[1])
    for layer in cell.decoder.layers:
        x = r.run(layer, x, mask, bias, states, seen)
    x = r.run(cell.decoder.last_dropout, r.run(cell.decoder.norm, x))
    return _logits(r, r.run(cell.head, r.run(cell.scale, x) if cell.scales else x))


def _enter(r: Recorder, cell: Cell, ids: Value) -> Value:
    """Embed the row, with the prompt before it; on a later stage, receive it."""
    if not r.is_first:
        return _received(r, ids, r.sites.hidden, cell.prompt_tokens)
    return _with_prompt(r, cell, cell.embed, r.run(cell.embed, ids))


def _with_prompt(r: Recorder, cell: Cell, embedding: Cell, x: Value) -> Value:
    count = cell.prompt_tokens
    if not count:
        return x
    learned = r.run(embedding.encoder)
    prompt = r.record([learned], (x.shape[0], count, x.shape[2]), x.item_bytes)
    return r.record([prompt, x], (x.shape[0], count + x.shape[1], x.shape[2]), x.item_bytes)


def _received(r: Recorder, ids: Value, hidden: int, prompt: int) -> Value:
    return Value(shape=(ids.shape[0], prompt + ids.shape[1], hidden), item_bytes=r.item_bytes, needs_gradient=True)


def _mask(cell: Cell, rows: int, tokens: int) -> Value:
    return Value(shape=(rows, 1, tokens, tokens + cell.prefix_tokens), item_bytes=1)


def _gathered_columns(r: Recorder, x: Value) -> Value:
    """The outputs of all tensor-parallel ranks, of which each takes the queries, keys and values of its own heads."""
    if r.layout.tp == 1:
        return x
    whole = r.record([x], (*x.shape[:-1], x.shape[-1] * r.layout.tp), x.item_bytes)
    return r.record([whole], x.shape, x.item_bytes)


def _without_prompt(r: Recorder, cell: Cell, x: Value) -> Value:
    count = cell.prompt_tokens
    return r.record([x], (x.shape[0], x.shape[1] - count, x.shape[2]), x.item_bytes) if count else x


def _logits(r: Recorder, logits: Value) -> Value:
    """Logits, or the states of a row, in float32."""
    return logits if logits.item_bytes == 4 else r.record([logits], logits.shape, 4, part="loss")


CELLS: Mapping[type[Cell], Callable[..., Any]] = {
    llama_net.Llama: net_of_llama,
    llama_net.LlamaLayer: llama_layer,
    llama_net.LlamaAttention: llama_attention,
    llama_net.JoinedAttention: llama_attention,
    llama_net.LlamaMlp: llama_mlp,
    experts.SparseMlp: sparse_mlp,
    rope.RotatePairs: rotate_pairs,
    parts.SplitGateUp: split_gate_up,
    SplitHeadsQkv: split_heads_qkv,
    SplitGroupedQkv: split_grouped_qkv,
    parts.Product: product,
    parts.Scale: scale,
    decoder.Decoder: decoder_net,
    classes.LastToken: last_token,
    decoder_layer.DecoderLayer: layer_of_decoder,
    decoder_layer.SelfAttention: self_attention,
    bert_net.Bert: net_of_bert,
    bert_net.BertLayer: bert_layer,
    bert_net.BertAttention: bert_attention,
    bert.BertEmbeddings: bert_embeddings,
    roberta.RobertaEmbeddings: roberta_embeddings,
    t5_net.T5Net: net_of_t5,
    t5_net.EncoderLayer: t5_encoder_layer,
    t5_net.TargetLayer: t5_target_layer,
    t5_net.SelfAttention: t5_attention,
    t5_net.CrossAttention: t5_cross_attention,
    t5_net.T5FeedForward: t5_feed_forward,
    t5_net.RelativeBias: relative_bias,
}
