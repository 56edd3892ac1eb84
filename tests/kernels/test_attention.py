"""The attention core against float64 numpy: heads, groups, masks, lengths, widths, dropout."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from petrun import kernels
from tests.kernels.conftest import close, normal, run
from tests.kernels.test_dropout import reference_mask

SCALE = 0.3


def reference(q, k, v, mask, dout, keep=1.0):
    """out, dq, dk, dv; `keep` multiplies the probabilities."""
    q, k, v, dout = (a.astype(np.float64) for a in (q, k, v, dout))
    groups = q.shape[1] // k.shape[1]
    wide_k, wide_v = np.repeat(k, groups, 1), np.repeat(v, groups, 1)
    scores = np.where(mask, q @ wide_k.swapaxes(-1, -2) * SCALE, -np.inf)
    top = scores.max(-1, keepdims=True)
    e = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = e.sum(-1, keepdims=True)
    p = e / np.where(total > 0, total, 1)
    dp = dout @ wide_v.swapaxes(-1, -2) * keep
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) * SCALE

    def grouped(x):
        b, n, s, d = x.shape
        return x.reshape(b, n // groups, groups, s, d).sum(2)

    dk, dv = grouped(ds.swapaxes(-1, -2) @ q), grouped((p * keep).swapaxes(-1, -2) @ dout)
    return (p * keep) @ wide_v, ds @ wide_k, dk, dv


def inputs(b, n, n_kv, t, s, d):
    q, k, v = normal(b, n, t, d), normal(b, n_kv, s, d, seed=1), normal(b, n_kv, s, d, seed=2)
    return q, k, v, normal(b, n, t, d, seed=3)


def masks(b, t, s):
    rng = np.random.default_rng(4)
    segments = np.sort(rng.integers(0, 4, (b, s)), -1)
    packed = (segments[:, None, :, None] == segments[:, None, None, :]) & (segments > 0)[:, None, None, :]
    lengths = rng.integers(1, s + 1, b)
    return {
        "all": np.ones((b, 1, t, s), bool),
        "causal": np.broadcast_to(np.tri(t, s, s - t, dtype=bool), (b, 1, t, s)),
        "right padding": np.broadcast_to((np.arange(s) < lengths[:, None])[:, None, None], (b, 1, t, s)),
        "left padding": np.broadcast_to((np.arange(s) >= s - lengths[:, None])[:, None, None], (b, 1, t, s)),
        "packed": packed[:, :, s - t :],
        "random": rng.random((b, 1, t, s)) < 0.3,
    }


def check(sizes, mask, tolerance=5e-6):
    q, k, v, dout = inputs(*sizes)
    out, gradients, _ = run(kernels.Attention(SCALE), (q, k, v, np.ascontiguousarray(mask)), dout, (0, 1, 2))
    for actual, expected in zip((out, *gradients), reference(q, k, v, mask, dout), strict=True):
        close(actual, expected, tolerance)
    return out, gradients


@pytest.mark.parametrize("kind", ["all", "causal", "right padding", "left padding", "packed", "random"])
def test_masks(kind, mode, implementation):
    b, t, s = 3, 70, 90
    check((b, 4, 2, t, s, 16), masks(b, t, s)[kind])


@pytest.mark.parametrize(
    "sizes",
    [
        (1, 1, 1, 1, 1, 8),  # one of everything
        (2, 4, 4, 1, 37, 32),  # a step of generation over a cache
        (1, 8, 1, 65, 65, 64),  # one key head for all
        (2, 6, 2, 5, 7, 24),
        (1, 2, 2, 33, 47, 80),
        (1, 2, 1, 130, 200, 128),
        (4, 3, 3, 16, 16, 20),
    ],
)
def test_sizes(sizes, implementation):
    b, _, _, t, s, _ = sizes
    check(sizes, masks(b, t, s)["causal"])


@pytest.mark.parametrize("width", [8, 40, 64, 96])
@pytest.mark.all_only
def test_widths(width, mode, implementation):
    check((2, 4, 2, 67, 67, width), masks(2, 67, 67)["packed"])


def test_a_query_that_sees_nothing_gets_zero(mode, implementation):
    mask = np.ones((2, 1, 5, 6), bool)
    mask[0, 0, 2] = False
    mask[1] = False
    out, (dq, dk, dv) = check((2, 2, 1, 5, 6, 8), mask)
    for nothing in (out[0, :, 2], out[1], dq[0, :, 2], dq[1], dk[1], dv[1]):
        assert not nothing.any()


def test_large_scores_do_not_overflow(implementation):
    q, k, v, _ = inputs(1, 2, 2, 20, 20, 16)
    mask = np.ones((1, 1, 20, 20), bool)
    out = kernels.Attention(SCALE)(*(Tensor(a) for a in (q * 300, k, v, mask))).asnumpy()
    close(out, reference(q * 300, k, v, mask, q)[0], 1e-4)


@pytest.mark.parametrize("queries", [1, 70])
def test_what_all_values_have_in_common_cancels(queries, implementation):
    """Large scores, and values that differ little: a softmax whose sum is 1 only to some 1e-6 left the common part in dq and dk."""
    q, k, v, dout = inputs(2, 4, 2, queries, 70, 32)
    q, v, mask = q * 6, v / 10 + 1, np.ascontiguousarray(masks(2, queries, 70)["causal"])
    out, gradients, _ = run(kernels.Attention(SCALE), (q, k, v, mask), dout, (0, 1, 2))
    for actual, expected in zip((out, *gradients), reference(q, k, v, mask, dout), strict=True):
        close(actual, expected, 2e-5)


def test_a_mask_that_broadcasts(mode, implementation):
    q, k, v, dout = inputs(3, 2, 2, 6, 6, 8)
    mask = np.tri(6, dtype=bool)[None, None]
    out, gradients, _ = run(kernels.Attention(SCALE), (q, k, v, mask), dout, (0, 1, 2))
    for actual, expected in zip((out, *gradients), reference(q, k, v, mask, dout), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("sizes", [(2, 4, 2, 70, 90, 16), (1, 2, 2, 64, 64, 32), (2, 2, 1, 5, 7, 8)])
def test_dropout_on_the_probabilities(sizes, mode, implementation):
    b, n, _, t, s, _ = sizes
    q, k, v, dout = inputs(*sizes)
    mask = np.ascontiguousarray(masks(b, t, s)["causal"])
    kernels.step_counter().set_data(Tensor(9, ms.int32))
    cell = kernels.Attention(SCALE, 0.25, seed=3, site="layers.1")
    out, gradients, _ = run(cell, (q, k, v, mask), dout, (0, 1, 2), train=True)
    keep = reference_mask(0.25, 3, "layers.1", 9, b * n * t * s).reshape(b, n, t, s) / 0.75
    for actual, expected in zip((out, *gradients), reference(q, k, v, mask, dout, keep), strict=True):
        close(actual, expected)
    kernels.step_counter().set_data(Tensor(0, ms.int32))
    still = cell.set_train(False)(*(Tensor(a) for a in (q, k, v, mask))).asnumpy()
    close(still, reference(q, k, v, mask, dout)[0])


def test_a_share_of_a_batch_drops_as_in_the_whole(mode, implementation):
    """Forward and backward: rows 1 and 2 of three."""
    sizes = (3, 4, 2, 66, 70, 16)
    q, k, v, dout = inputs(*sizes)
    mask = np.ascontiguousarray(masks(3, 66, 70)["causal"])
    cell = kernels.Attention(SCALE, 0.25, seed=3, site="layers.1")
    whole = run(cell, (q, k, v, mask), dout, (0, 1, 2), train=True)
    kernels.batch_offset().set_data(Tensor([1, 2], ms.int32))
    share = run(cell, tuple(a[1:] for a in (q, k, v, mask)), dout[1:], (0, 1, 2), train=True)
    kernels.batch_offset().set_data(Tensor([0, 1], ms.int32))
    for actual, expected in zip((share[0], *share[1]), (whole[0], *whole[1]), strict=True):
        close(actual, expected[1:])


def test_fused_equals_primitives(mode, fused):
    sizes = (4, 6, 2, 100, 100, 32)
    q, k, v, dout = inputs(*sizes)
    mask = np.ascontiguousarray(masks(4, 100, 100)["packed"])
    here = run(kernels.Attention(SCALE, 0.1, 1, "x"), (q, k, v, mask), dout, (0, 1, 2), train=True)
    with kernels.primitives_only():
        there = run(kernels.Attention(SCALE, 0.1, 1, "x"), (q, k, v, mask), dout, (0, 1, 2), train=True)
    for a, b in zip((here[0], *here[1]), (there[0], *there[1]), strict=True):
        close(a, b)


def test_half_precision(implementation):
    q, k, v, _ = inputs(2, 4, 2, 9, 9, 16)
    mask = np.ascontiguousarray(masks(2, 9, 9)["causal"])
    out = kernels.Attention(SCALE)(*(Tensor(a.astype(np.float16)) for a in (q, k, v)), Tensor(mask))
    assert out.dtype == ms.float16
    np.testing.assert_allclose(out.asnumpy(), reference(q, k, v, mask, q)[0], atol=1e-2)


def test_nan_reaches_the_output(fused):
    q, k, v, _ = inputs(1, 1, 1, 4, 4, 8)
    q[0, 0, 1, 2] = np.nan
    mask = np.ones((1, 1, 4, 4), bool)
    out = kernels.Attention(SCALE)(*(Tensor(a) for a in (q, k, v, mask))).asnumpy()
    assert np.isnan(out[0, 0, 1]).all() and np.isfinite(out[0, 0, [0, 2, 3]]).all()


def test_capped_scores(mode, implementation):
    """Gemma 2: the softmax is over c tanh(score / c)."""
    b, n, n_kv, t, s, d = 2, 4, 2, 5, 7, 8
    q, k, v, dout = inputs(b, n, n_kv, t, s, d)
    mask, cap = np.ascontiguousarray(masks(b, t, s)["causal"]), 0.7
    out, gradients, _ = run(kernels.Attention(SCALE, cap=cap), (q, k, v, mask), dout, (0, 1, 2))

    def capped(q, k, v):
        wide_k, wide_v = np.repeat(k, n // n_kv, 1), np.repeat(v, n // n_kv, 1)
        scores = cap * np.tanh(q @ wide_k.swapaxes(-1, -2) * SCALE / cap)
        e = np.where(mask, np.exp(scores), 0)
        return e / e.sum(-1, keepdims=True) @ wide_v

    exact = [a.astype(np.float64) for a in (q, k, v)]
    close(out, capped(*exact))
    rng = np.random.default_rng(5)
    for i, gradient in enumerate(gradients):
        # Of each input a few entries, by central differences.
        for place in (tuple(rng.integers(0, size) for size in exact[i].shape) for _ in range(6)):
            moved = [[a.copy() for a in exact] for _ in range(2)]
            for sign, arrays in zip((1, -1), moved, strict=True):
                arrays[i][place] += sign * 1e-5
            up, down = (float((capped(*arrays) * dout).sum()) for arrays in moved)
            assert gradient[place] == pytest.approx((up - down) / 2e-5, abs=2e-4)
