"""Clipping by the global norm, against numpy."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from petrun.train.clipping import GradientClipping, times

GRADS = [
    np.random.default_rng(i).normal(size=shape).astype(np.float32) for i, shape in enumerate([(4, 3), (5,), (2, 2)])
]
NORM = float(np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in GRADS)))


@pytest.mark.parametrize("clip", [0.0, 0.5, 100.0], ids=["off", "clips", "large"])
def test_no_norm_is_above_the_limit(mode, clip):
    """Given a limit, gradients of a larger norm have the limit's norm and their direction; others stay as they are."""
    cell = GradientClipping(clip)
    grads = tuple(Tensor(g) for g in GRADS)
    norm = cell.global_norm(grads)
    assert float(norm.asnumpy()) == pytest.approx(NORM, rel=1e-5)
    factor = min(1.0, clip / (NORM + 1e-6)) if clip else 1.0
    for found, wanted in zip(cell(grads, norm), GRADS, strict=True):
        np.testing.assert_allclose(found.asnumpy(), wanted * factor, rtol=1e-5)


def test_times():
    for found, wanted in zip(times(tuple(Tensor(g) for g in GRADS), Tensor(2.0, ms.float32)), GRADS, strict=True):
        np.testing.assert_array_equal(found.asnumpy(), 2 * wanted)
