"""The counter dropout: its bits against an independent implementation, its statistics, what they depend on."""

import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from petrun import kernels
from petrun.errors import ConfigError
from petrun.kernels.dropout import keep_threshold
from tests.kernels.conftest import close, normal, run
from tests.kernels.counter_hash import reference_hash


def reference_mask(p, seed, site, step, count):
    """The formula of the module's docstring."""
    h = reference_hash(seed, site, step, count)
    number = np.where(h >= 2**31, h.astype(np.int64) - 2**32, h.astype(np.int64))
    return number >= round(p * 2**32) - 2**31


def at_step(step):
    kernels.step_counter().set_data(Tensor(step, ms.int32))


def at_place(first, rows):
    kernels.batch_offset().set_data(Tensor([first, rows], ms.int32))


@pytest.fixture(autouse=True)
def _restored():
    yield
    at_step(0)
    at_place(0, 1)


def kept(p, seed, site, step, count):
    at_step(step)
    cell = kernels.Dropout(p, seed, site).set_train()
    return cell(Tensor(np.ones(count, np.float32))).asnumpy() != 0


@pytest.mark.parametrize(
    "p, seed, site, step", [(0.1, 0, "", 0), (0.5, 7, "layers.0.attn", 1), (0.9, 2**31, "x", 2**31 - 1)]
)
def test_bits(p, seed, site, step, mode, implementation):
    np.testing.assert_array_equal(kept(p, seed, site, step, 20_003), reference_mask(p, seed, site, step, 20_003))


def test_bits_in_another_process():
    code = (
        "import numpy as np, mindspore as ms\n"
        "from mindspore import Tensor\n"
        "from petrun import kernels\n"
        "kernels.step_counter().set_data(Tensor(12, ms.int32))\n"
        "y = kernels.Dropout(0.3, 5, 'there').set_train()(Tensor(np.ones(999, np.float32))).asnumpy()\n"
        "print(''.join('01'[int(v != 0)] for v in y))\n"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1]
    np.testing.assert_array_equal(kept(0.3, 5, "there", 12, 999), np.array(list(there)) == "1")


def test_value_and_gradient(mode, implementation):
    at_step(3)
    x, w = normal(7, 33), normal(7, 33, seed=1)
    y, (dx,), _ = run(kernels.Dropout(0.25, 1, "a"), (x,), w, (0,), train=True)
    mask = reference_mask(0.25, 1, "a", 3, x.size).reshape(x.shape)
    close(y, x * mask / 0.75)
    close(dx, w * mask / 0.75)


def test_the_step_is_read_at_every_call(mode, implementation):
    """A compiled graph must not have the step frozen into it."""
    cell = kernels.Dropout(0.5, 0, "s").set_train()
    x = Tensor(np.ones(500, np.float32))
    for step in (0, 1, 2, 1):
        at_step(step)
        np.testing.assert_array_equal(cell(x).asnumpy() != 0, reference_mask(0.5, 0, "s", step, 500))


def test_a_share_of_a_batch_is_masked_as_in_the_whole(mode, implementation):
    """Also where the rows were laid flat, (B, T, H) -> (B * T, H), as low-rank layers do."""
    shape = (7, 5, 333)
    at_step(3)
    cell = kernels.Dropout(0.25, 1, "a").set_train()
    at_place(0, 7)
    whole = cell(Tensor(np.ones(shape, np.float32))).asnumpy()
    np.testing.assert_array_equal(whole.ravel() != 0, reference_mask(0.25, 1, "a", 3, whole.size))
    for first in (0, 3):
        stop = first + 4
        at_place(first, 4)
        share = np.ones((4, *shape[1:]), np.float32)
        np.testing.assert_array_equal(cell(Tensor(share)).asnumpy(), whole[first:stop])
        flat = cell(Tensor(share.reshape(-1, shape[-1]))).asnumpy()
        np.testing.assert_array_equal(flat.reshape(share.shape), whole[first:stop])


def test_what_is_no_row_of_the_batch_is_masked_alike_everywhere(mode, implementation):
    cell = kernels.Dropout(0.5, 1, "a", rows=False).set_train()
    x = Tensor(np.ones((6, 50), np.float32))
    here = cell(x).asnumpy()
    at_place(4, 3)
    np.testing.assert_array_equal(cell(x).asnumpy(), here)


def test_places_beyond_32_bits_of_elements():
    """The count of one share may pass 2^31; positions are modulo 2^32."""
    at_place(3, 2)
    before = kernels.Dropout(0.5, 0, "s").keep.before
    assert int(before(kernels.batch_offset(), 1000).asnumpy()) == 1500
    assert int(before(kernels.batch_offset(), 2**33).asnumpy()) == 0
    assert int(before(kernels.batch_offset(), 2**33 + 4).asnumpy()) == 6


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_keep_rate(p):
    count = 200_000
    rates = [kept(p, seed, "rate", step, count).mean() for seed in (0, 1) for step in (0, 1)]
    sigma = (p * (1 - p) / count) ** 0.5
    assert np.abs(np.array(rates) - (1 - p)).max() < 4 * sigma


def test_streams_are_independent():
    """Seed, site and step each give a new mask; neighbours in a mask do not follow one another; no mask is another shifted."""
    count = 100_000
    base = kept(0.5, 0, "a", 0, count)
    others = [kept(0.5, 1, "a", 0, count), kept(0.5, 0, "b", 0, count), kept(0.5, 0, "a", 1, count)]
    bound = 4.5 / np.sqrt(count)
    centred = base - 0.5
    for other in others:
        assert abs(np.mean(centred * (other - 0.5))) * 4 < bound
    for lag in (1, 2, 16, 64, 384, 4096):
        assert abs(np.mean(centred[:-lag] * centred[lag:])) * 4 < bound
    spectrum = np.fft.rfft(centred) * np.conj(np.fft.rfft(others[2] - 0.5))
    assert np.abs(np.fft.irfft(spectrum)).max() * 4 / count < 6.5 / np.sqrt(count)


def test_inactive(mode, implementation):
    x = Tensor(normal(3, 4))
    for cell in (kernels.Dropout(0.5, 0, "a").set_train(False), kernels.Dropout(0.0, 0, "a").set_train()):
        np.testing.assert_array_equal(cell(x).asnumpy(), x.asnumpy())


def test_half_precision(implementation):
    y = kernels.Dropout(0.5, 0, "a").set_train()(Tensor(np.ones((4, 50), np.float16)))
    assert y.dtype == ms.float16
    np.testing.assert_array_equal(y.asnumpy().ravel() == 2, reference_mask(0.5, 0, "a", 0, 200))


def test_the_counter_is_no_parameter_of_the_model():
    net = ms.nn.SequentialCell(kernels.Dropout(0.5, 0, "a"), kernels.Attention(1.0, 0.1, 0, "b"))
    assert list(net.get_parameters()) == []
    for shared, name in (
        (kernels.step_counter(), "petrun_dropout_step"),
        (kernels.batch_offset(), "petrun_batch_offset"),
    ):
        assert shared.name == name and not shared.requires_grad


def test_the_first_stage_of_a_pipeline_has_the_counter_that_the_step_sets():
    """Masks of the first stage would otherwise be those of step 0 in every step."""
    cell = kernels.Dropout(0.5, 0, "a")
    kernels.count_on_stage(cell, 0)
    assert cell.step is kernels.step_counter() and kernels.step_counter(0) is kernels.step_counter()
    kernels.count_on_stage(cell, 2)
    assert cell.step is kernels.step_counter(2) and kernels.step_counter(2) is not kernels.step_counter()


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_wrong_rates(p):
    with pytest.raises(ConfigError, match="dropout"):
        kernels.Dropout(p, 0, "a")
    with pytest.raises(ConfigError, match="dropout"):
        kernels.Attention(1.0, p, 0, "a")


def test_threshold_at_the_ends():
    assert keep_threshold(0.0) == -(2**31)
    assert keep_threshold(1.0 - 1e-12) == 2**31 - 1
