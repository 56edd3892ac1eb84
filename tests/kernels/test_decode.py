"""The operators of generation against numpy, and that no row depends on the others."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from petrun.graph.multi_adapter import MultiAdapterLinear, adapter_indices
from petrun.kernels import Attention, Likeliest, WriteCache, primitives_only
from petrun.models.parts import dense

RNG = np.random.default_rng(0)


def drawn(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def filled(cell):
    for parameter in cell.get_parameters():
        parameter.set_data(Tensor(drawn(*parameter.shape)))
    return cell


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("wide_in", "wide_out"), [(40, 21), (7, 3)])
def test_linear_layers_of_few_rows(pynative, bias, wide_in, wide_out):
    layer = filled(dense(wide_in, wide_out, ms.float32, bias))
    x = drawn(19, wide_in)
    expected = x.astype(np.float64) @ layer.weight.asnumpy().T + (layer.bias.asnumpy() if bias else 0)
    found = layer(Tensor(x)).asnumpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)
    if layer.is_fused:
        alone = [layer(Tensor(x[i : i + 1])).asnumpy()[0] for i in range(19)]
        assert np.array_equal(found, alone), "the rows beside it change a row's last bits"
    many = drawn(50, wide_in)
    np.testing.assert_allclose(layer(Tensor(many)).asnumpy()[:19], layer(Tensor(many[:19])).asnumpy(), atol=2e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_few_rows(mode, bias):
    """Outside of training mode too a layer may be differentiated: by x, weight and bias."""
    layer, x = filled(dense(10, 6, ms.float32, bias)), drawn(3, 10)
    pull = drawn(3, 6)

    def loss(x):
        return (layer(x) * Tensor(pull)).sum()

    by_x, by_parameters = ms.value_and_grad(loss, 0, layer.trainable_params())(Tensor(x))[1]
    np.testing.assert_allclose(by_x.asnumpy(), pull @ layer.weight.asnumpy(), atol=1e-5)
    np.testing.assert_allclose(by_parameters[0].asnumpy(), pull.T @ x, atol=1e-5)
    if bias:
        np.testing.assert_allclose(by_parameters[1].asnumpy(), pull.sum(0), atol=1e-5)


@pytest.mark.parametrize("primitives", [False, True])
def test_each_row_by_its_own_adapter(pynative, primitives):
    a, b = drawn(3, 4, 10), drawn(3, 6, 4)
    a[0], b[0] = 0, 0
    indices = adapter_indices(5)
    indices.set_data(Tensor(np.array([2, 0, 1, 2, 0], np.int32)))
    base = nn.Dense(10, 6)
    if primitives:
        with primitives_only():
            layer = MultiAdapterLinear(base, indices, {"a": a, "b": b})
    else:
        layer = MultiAdapterLinear(base, indices, {"a": a, "b": b})
    x = drawn(4, 3, 10)
    plain = base(Tensor(x)).asnumpy()
    own = np.einsum("btk,brk,bnr->btn", x, a[[2, 0, 1, 2]], b[[2, 0, 1, 2]])
    found = layer(Tensor(x)).asnumpy()
    np.testing.assert_allclose(found, plain + own, atol=2e-5)
    assert np.array_equal(found[1], plain[1])


@pytest.mark.parametrize("primitives", [False, True])
def test_writing_into_the_cache(mode, primitives):
    """Two prompts of three tokens go to rows 2 and 0; a later token to every row, each to its own column."""
    if primitives:
        with primitives_only():
            write = WriteCache()
    else:
        write = WriteCache()
    before = [drawn(3, 2, 6, 5), drawn(3, 2, 6, 5)]
    caches = [Tensor(x.copy()) for x in before]
    k, v = drawn(2, 2, 3, 5), drawn(2, 2, 3, 5)
    expected = [x.copy() for x in before]
    for found, new in zip(expected, (k, v), strict=True):
        found[2, :, 1:4], found[0, :, 3:6] = new
    places = Tensor(np.array([2, 0], np.int32)), Tensor(np.array([1, 3], np.int32))
    out = write(Tensor(k), Tensor(v), *caches, *places)
    for given, returned, wanted, old in zip(caches, out, expected, before, strict=True):
        assert np.array_equal(returned.asnumpy(), wanted)
        assert np.array_equal(given.asnumpy(), wanted if write.in_place(ms.float32) else old)
    assert not write.in_place(ms.float16)


@pytest.mark.parametrize("primitives", [False, True])
def test_the_likeliest_token_and_whether_all_are_finite(mode, primitives):
    if primitives:
        with primitives_only():
            cell = Likeliest()
    else:
        cell = Likeliest()
    logits = drawn(6, 37)
    logits[1, [5, 30]] = 9
    logits[2, 36], logits[3, 20], logits[4, 0] = np.nan, np.inf, -np.inf
    best, finite = cell(Tensor(logits))
    assert best.dtype == ms.int32 and finite.asnumpy().tolist() == [True, True, False, False, False, True]
    rows = [0, 1, 3, 4, 5]
    assert best.asnumpy()[rows].tolist() == logits[rows].argmax(-1).tolist() and best.asnumpy()[1] == 5


@pytest.mark.parametrize("width", [4, 20])
def test_attention_of_one_query(pynative, width):
    """Grouped heads, keys hidden at both ends and between, NaN where nothing is seen: as softmax over the visible keys says."""
    core = Attention(0.3)
    q, k, v = drawn(3, 4, 1, width), drawn(3, 2, 21, width), drawn(3, 2, 21, width)
    mask = np.ones((3, 1, 1, 21), bool)
    mask[0, ..., 9:] = mask[1, ..., :4] = mask[1, ..., 7] = False
    if core.is_fused:
        v[0, :, 9:] = np.nan
    found = core(*map(Tensor, (q, k, v, mask))).asnumpy()
    for b in range(3):
        seen = mask[b, 0, 0]
        for n in range(4):
            scores = 0.3 * k[b, n // 2, seen].astype(np.float64) @ q[b, n, 0]
            weights = np.exp(scores - scores.max())
            expected = (weights / weights.sum()) @ v[b, n // 2, seen]
            np.testing.assert_allclose(found[b, n, 0], expected, atol=1e-5)
    mask[1] = False
    assert not core(*map(Tensor, (q, k, v, mask))).asnumpy()[1].any()
