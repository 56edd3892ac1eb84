"""What is handed to Ascend's attention operator, held against an emulation of the operator as its documentation has it."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from petrun import kernels
from petrun.kernels import flash
from petrun.kernels.attention import Attention

B, N, KV, T, S, D = 2, 4, 2, 6, 16, 16
SCALE = 0.3


def operator(q, k, v, head_num, *, drop_mask=None, attn_mask=None, keep_prob=1.0, scalar_value=1.0, input_layout="BSH"):
    """True in attn_mask hides; a bit of 1 in drop_mask keeps, the first score in a byte's lowest bit."""
    assert input_layout == "BNSD" and head_num == q.shape[1] and attn_mask.dtype == ms.bool_
    assert attn_mask.shape == (q.shape[0], 1, q.shape[2], k.shape[2])
    assert (drop_mask is None) == (keep_prob == 1.0)
    groups = head_num // k.shape[1]
    q, k, v = (x.asnumpy().astype(np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, groups, 1) for x in (k, v))
    scores = np.where(attn_mask.asnumpy(), -np.inf, q @ k.transpose(0, 1, 3, 2) * scalar_value)
    probs = np.exp(scores - scores.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    if drop_mask is not None:
        assert drop_mask.dtype == ms.uint8 and drop_mask.shape == (*probs.shape[:3], probs.shape[3] // 8)
        probs = probs * np.unpackbits(drop_mask.asnumpy(), axis=-1, bitorder="little") / keep_prob
    return Tensor((probs @ v).astype(np.float16))


@pytest.fixture
def operands(monkeypatch):
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    monkeypatch.setattr(flash.ops, "flash_attention_score", operator)
    rng = np.random.default_rng(0)
    q, k, v = (
        Tensor(rng.standard_normal(shape).astype(np.float16)) for shape in ((B, N, T, D), (B, KV, S, D), (B, KV, S, D))
    )
    mask = rng.random((B, 1, T, S)) < 0.6
    mask[1, 0, 2] = False
    yield q, k, v, Tensor(mask)
    ms.set_context(mode=before)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("train", [False, True])
def test_it_is_the_attention_of_the_primitives(operands, dropout, train):
    cells = [flash.FlashAttention(SCALE, dropout, 7, "here")]
    with kernels.primitives_only():
        cells.append(Attention(SCALE, dropout, 7, "here"))
    kernels.step_counter().set_data(Tensor(3, ms.int32))
    found, expected = (cell.set_train(train)(*operands).asnumpy() for cell in cells)
    np.testing.assert_allclose(found, expected, atol=4e-3)
    assert not found[1, :, 2].any(), "a query that sees nothing gives 0"
    plain = cells[1].set_train(False)(*operands).asnumpy()
    assert (np.abs(expected - plain).max() > 0.1) == (train and dropout > 0)


def test_one_mask_for_all_rows(operands):
    q, k, v, mask = operands
    cell = flash.FlashAttention(SCALE, 0.0, 0, "")
    whole = np.broadcast_to(mask.asnumpy()[:1, :, :1], (B, 1, T, S))
    np.testing.assert_array_equal(cell(q, k, v, mask[:1, :, :1]).asnumpy(), cell(q, k, v, Tensor(whole)).asnumpy())


@pytest.mark.parametrize(
    ("dtype", "width", "slots", "dropout", "train", "taken"),
    [
        (ms.float16, 64, 7, 0.0, True, True),
        (ms.bfloat16, 128, 7, 0.1, False, True),
        (ms.bfloat16, 128, 8, 0.1, True, True),
        (ms.bfloat16, 128, 7, 0.1, True, False),
        (ms.float32, 64, 8, 0.0, False, False),
        (ms.float16, 20, 8, 0.0, False, False),
        (ms.float16, 528, 8, 0.0, False, False),
    ],
)
def test_what_the_operator_takes(dtype, width, slots, dropout, train, taken):
    cell = flash.FlashAttention(SCALE, dropout, 0, "").set_train(train)
    assert cell.takes(Tensor(np.zeros((1, 1, 1, width), np.float32), dtype), slots) == taken
