"""MindSpore's FlashAttentionScore and its gradient, with the matrix of scores, for the layout BNSD and a whole mask.

    S = q k^T * scale, hidden positions out;  P = softmax(S);  out = (P * kept / keep_prob) v

Source: Dao et al., arXiv:2205.14135, algorithms 1 and 4, without their tiles. Conventions are those of petrun.kernels.flash: True hides;
dropout's mask is one bit a score, 1 = kept, the first score in a byte's lowest bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from petrun.errors import SetupError
from petrun.rehearsal.operators.types import Compute, Value
from petrun.rehearsal.step_graph import Node
from petrun.tensors import Array

_LANES = 8
"""The operator keeps the largest score and the sum of each row this many times."""


@dataclass(frozen=True, kw_only=True)
class _Scores:
    """The parts of one attention: float32, (B, N, T, S) and (B, N, S, D)."""

    k: Array
    v: Array
    probs: Array
    grown: Array
    """What each probability is multiplied by: kept / keep_prob."""
    largest: Array
    total: Array
    scale: float


def flash_attention(node: Node, *inputs: Value) -> Value:
    """(largest, sum, unused, out). Inputs: q, k, v, shift, dropout's mask, padding mask, mask, prefix, lengths, then settings."""
    q, k, v, _, dropped, _, mask = inputs[:7]
    found = _scores(node, q, k, v, dropped, mask, inputs[10:])
    out = np.matmul(found.probs * found.grown, found.v)
    lanes = [np.repeat(value, _LANES, -1) for value in (found.largest, found.total)]
    return *lanes, np.zeros(node.results[2].shape), out


def flash_attention_grad(node: Node, *inputs: Value) -> Value:
    """(dq, dk, dv, dshift). Inputs: q, k, v, dout, shift, dropout's mask, padding mask, mask, largest, sum, unused, out, prefix, lengths,
    then settings.
    """
    q, k, v, dy, _, dropped, _, mask = inputs[:8]
    found = _scores(node, q, k, v, dropped, mask, inputs[15:])
    dv = np.matmul(np.swapaxes(found.probs * found.grown, -1, -2), dy)
    dprobs = np.matmul(dy, np.swapaxes(found.v, -1, -2)) * found.grown
    dscores = found.probs * (dprobs - np.sum(dprobs * found.probs, -1, keepdims=True)) * found.scale
    dq = np.matmul(dscores, found.k)
    dk = np.matmul(np.swapaxes(dscores, -1, -2), q)
    rest = [np.zeros(kind.shape) for kind in node.results[3:]]
    return dq, _summed(dk, k.shape), _summed(dv, v.shape), *rest


def _scores(
    node: Node, q: Array, k: Array, v: Array, dropped: Value, mask: Value, settings: Sequence[Value]
) -> _Scores:
    """Compute probabilities. `settings`: heads, keep_prob, scale, tokens before and after, precision, layout, sparse mode."""
    _, keep, scale, _, _, _, layout, sparse = settings[:8]
    if layout not in (_BNSD, "BNSD") or sparse != 0:
        raise SetupError(f"{node.layer}: a {node.operator} in layout {layout}, sparse mode {sparse}, is not computed")
    groups = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, groups, 1), np.repeat(v, groups, 1)
    scores = np.matmul(q, np.swapaxes(k, -1, -2)) * np.float32(scale)
    if mask is not None:
        scores = np.where(mask.astype(bool), -np.inf, scores)
    largest = np.max(scores, -1, keepdims=True)
    powers = np.exp(scores - largest)
    total = np.sum(powers, -1, keepdims=True)
    grown = np.ones((), np.float32)
    if dropped is not None:
        grown = np.unpackbits(dropped.reshape(-1), bitorder="little").reshape(scores.shape) / np.float32(keep)
    return _Scores(
        k=k, v=v, probs=powers / total, grown=grown, largest=largest, total=total, scale=float(np.float32(scale))
    )


_BNSD = 1
"""MindSpore's number for the layout."""


def _summed(grad: Array, shape: Sequence[int]) -> Array:
    """Sum the gradients of the heads that share a key/value head."""
    found: Array = grad.reshape(shape[0], shape[1], -1, *shape[2:]).sum(2)
    return found


ATTENTION: dict[str, Compute] = {
    "FlashAttentionScore": flash_attention,
    "FlashAttentionScoreGrad": flash_attention_grad,
}
