"""TokenCrossEntropy against the float64 formula."""

import numpy as np
import pytest
from mindspore import Tensor

from petrun import kernels
from tests.kernels.conftest import close, normal, run


def reference(logits, targets, dloss):
    x = logits.astype(np.float64)
    top = x.max(-1, keepdims=True)
    log_probs = x - top - np.log(np.exp(x - top).sum(-1, keepdims=True))
    known = targets != -100
    safe = np.where(known, targets, 0)
    loss = np.where(known, -np.take_along_axis(log_probs, safe[:, None], 1)[:, 0], 0)
    hot = np.eye(x.shape[1])[safe]
    return loss, (np.exp(log_probs) - hot) * (known * dloss)[:, None]


@pytest.mark.parametrize("rows, vocabulary", [(6, 2), (5, 64), (33, 517), (3, 20_000)])
def test_value_and_gradient(rows, vocabulary, mode, implementation):
    logits, dloss = 4 * normal(rows, vocabulary), normal(rows, seed=1)
    targets = np.random.default_rng(2).integers(0, vocabulary, rows).astype(np.int32)
    targets[[0, rows // 2]] = -100
    targets[-1] = vocabulary - 1
    loss, (dlogits,), _ = run(kernels.TokenCrossEntropy(), (logits, targets), dloss, (0,))
    expected, gradient = reference(logits, targets, dloss)
    close(loss, expected, 3e-6 if implementation == "fused" else 1e-5)
    close(dlogits, gradient, 1e-5)
    assert loss[0] == 0 and not dlogits[0].any()


def test_large_logits(implementation):
    logits = np.array([[1e4, 0, -1e4], [-1e4, -1e4, -1e4]], np.float32)
    loss = kernels.TokenCrossEntropy()(Tensor(logits), Tensor(np.array([1, 2], np.int32))).asnumpy()
    np.testing.assert_allclose(loss, [1e4, np.log(3)], rtol=5e-6, atol=1e-6)


def test_a_nan_reaches_the_loss_of_its_row_only(implementation):
    logits = normal(3, 50)
    logits[1, 4] = np.nan
    loss = kernels.TokenCrossEntropy()(Tensor(logits), Tensor(np.array([1, 1, 1], np.int32))).asnumpy()
    assert list(np.isnan(loss)) == [False, True, False]


def test_half_precision_logits_give_a_float32_loss(implementation):
    logits = normal(4, 9).astype(np.float16)
    targets = np.array([0, 8, -100, 3], np.int32)
    loss = kernels.TokenCrossEntropy()(Tensor(logits), Tensor(targets)).asnumpy()
    close(loss, reference(logits, targets, np.ones(4))[0])
