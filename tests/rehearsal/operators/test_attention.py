"""Flash attention: against petrun's attention on the CPU, dropout's masks included, and its gradient against slopes in float64."""

import numpy as np
import pytest
from mindspore import Tensor

from petrun.kernels import Attention, batch_offset, step_counter
from petrun.kernels.dropout import KeepMask
from petrun.rehearsal.interpreter import compute
from tests.rehearsal.operators.nodes import in_float64, node, slopes

B, N, KV, T, D = 2, 4, 2, 8, 16
SCALE = 0.25


def settings(keep):
    """Prefix, both lengths, heads, keep_prob, scale, tokens before and after, precision, layout BNSD, sparse mode."""
    return None, None, None, N, keep, SCALE, 2**31 - 1, 2**31 - 1, 0, 1, 0


@pytest.fixture
def drawn():
    random = np.random.default_rng(1)
    visible = np.tril(np.ones((T, T), bool))[None, None] & (np.arange(T) < np.array([T, T - 3])[:, None])[:, None, None]
    shapes = ((B, N, T, D), (B, KV, T, D), (B, KV, T, D), (B, N, T, D))
    return [random.normal(size=shape) for shape in shapes], visible


def forward(q, k, v, hidden, packed=None, keep=1.0):
    shapes = [(B, N, T, 8), (B, N, T, 8), (1,), (B, N, T, D)]
    return in_float64("FlashAttentionScore", shapes, q, k, v, None, packed, None, hidden, *settings(keep))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_it_is_petruns_attention(drawn, pynative, dropout):
    (q, k, v, _), visible = drawn
    q, k, v = (value.astype(np.float32) for value in (q, k, v))
    cell = Attention(SCALE, dropout, 5, "layers.0.attn", N)
    cell.set_train(True)
    step_counter().set_data(Tensor(3, step_counter().dtype))
    batch_offset().set_data(Tensor([0, B], batch_offset().dtype))
    expected = cell(*map(Tensor, (q, k, v, visible))).asnumpy()
    packed = None
    if dropout:
        kept = KeepMask(dropout, 5, "layers.0.attn")(step_counter(), batch_offset(), (B, N, T, T)).asnumpy()
        packed = np.packbits(kept.reshape(B, N, T, T // 8, 8), axis=-1, bitorder="little")[..., 0]
    inputs = (q, k, v, None, packed, None, ~visible, *settings(1.0 - dropout))
    largest, total, _, out = compute(
        node("FlashAttentionScore", (B, N, T, 8), (B, N, T, 8), (1,), (B, N, T, D)), inputs
    )
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=2e-6)
    assert (largest == largest[..., :1]).all() and (total >= 1.0).all()


@pytest.mark.parametrize("keep", [1.0, 0.7])
def test_its_gradient(drawn, keep):
    (q, k, v, dy), visible = drawn
    packed = None
    if keep < 1.0:
        packed = np.random.default_rng(2).integers(0, 256, (B, N, T, T // 8)).astype(np.uint8)
    largest, total, empty, out = forward(q, k, v, ~visible, packed, keep)
    inputs = (q, k, v, dy, None, packed, None, ~visible, largest, total, empty, out, *settings(keep))
    shapes = [q.shape, k.shape, v.shape, (1,)]
    found = in_float64("FlashAttentionScoreGrad", shapes, *inputs)
    for i, value in enumerate((q, k, v)):

        def out_of(first, i=i):
            """The output where the first head of the first row of q, k or v is another."""
            taken = [x.copy() for x in (q, k, v)]
            taken[i][0, 0] = first
            return forward(*taken, ~visible, packed, keep)[3]

        np.testing.assert_allclose(found[i][0, 0], slopes(out_of, value[0, 0], dy), atol=1e-7)
