"""BLOOM against transformers: test_agreement.py holds its numbers, this file what it has of its own."""

import numpy as np
import pytest
from mindspore import Tensor

from petrun.errors import ModelError
from petrun.kernels import Attention, primitives_only
from petrun.models import bloom
from tests.models.agreement import check_logits, check_sites, load
from tests.models.transformers_cases import BLOOM


def test_equals_transformers_without_fused_operators(tmp_path, pynative):
    with primitives_only():
        check_logits(load(tmp_path, "bloom-6-heads"), "bloom-6-heads")


def test_sites():
    assert check_sites("bloom").hf_paths["layers.1.mlp.down"] == "transformer.h.1.mlp.dense_4h_to_h"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"alibi": False}, "alibi = false is not supported for bloom"),
        ({"parallel_attn": True}, "parallel_attn = true is not supported for bloom"),
        ({"n_head": 3}, "hidden_size = 16: must be a multiple of n_head = 3"),
    ],
)
def test_a_field_that_is_not_supported_is_named(change, named):
    with pytest.raises(ModelError, match=named):
        bloom.parse({**BLOOM, **change})


def test_slopes():
    """Press et al., section 3: 2^-1 ... 2^-8 for eight heads; for three, those of two and the first of four."""
    assert bloom.slopes(8) == tuple(2.0**-i for i in range(1, 9))
    assert bloom.slopes(3) == (2.0**-4, 2.0**-8, 2.0**-2)


def test_gradients_of_the_fused_operator_equal_those_of_primitives(pynative):
    """With rows that see nothing, and keys beside whole vectors."""
    import mindspore as ms

    rng = np.random.default_rng(3)
    q, k, v, weights = (Tensor(rng.normal(size=(2, 2, 7, 4)).astype(np.float32)) for _ in range(4))
    mask = np.tril(np.ones((2, 1, 7, 7), bool))
    mask[1, :, :, :2] = False

    def gradients():
        core = Attention(0.5, slopes=(0.5, 0.0625))
        return ms.grad(lambda *qkv: (core(*qkv, Tensor(mask)) * weights).sum(), grad_position=(0, 1, 2))(q, k, v)

    with primitives_only():
        plain = gradients()
    for found, wanted in zip(gradients(), plain, strict=True):
        np.testing.assert_allclose(found.asnumpy(), wanted.asnumpy(), atol=2e-6)
