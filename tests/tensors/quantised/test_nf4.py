"""NF4 with double quantisation against bitsandbytes' numbers."""

from statistics import NormalDist

import numpy as np
import pytest

from petrun.tensors.quantised import nf4
from tests.tensors.quantised.stored import CASES, stored, weight


@pytest.mark.parametrize("case", CASES)
def test_codes_and_values_are_those_of_bitsandbytes(case):
    theirs = stored(case)
    ours = nf4.quantised(weight(case), offset=float(theirs["offset"]))
    assert ours.shape == CASES[case] and ours.bits == 4
    assert np.array_equal(ours.codes, theirs["nf4"])
    assert np.array_equal(ours.scales, theirs["absmax"])
    assert np.array_equal(ours.nested.absmax, theirs["absmax2"])
    assert np.array_equal(ours.nested.table, theirs["table2"])
    if "nf4_values" in theirs:
        assert np.array_equal(ours.dequantised(), theirs["nf4_values"])


@pytest.mark.parametrize("case", CASES)
def test_its_own_mean_is_torchs_but_for_rounding(case):
    ours = nf4.quantised(weight(case))
    np.testing.assert_allclose(ours.nested.offset, stored(case)["offset"], rtol=3e-7)


def test_against_the_library_itself():
    torch = pytest.importorskip("torch")
    of_bitsandbytes = pytest.importorskip("bitsandbytes.functional")
    values = np.random.default_rng(7).standard_normal((300, 704)).astype(np.float32)
    packed, state = of_bitsandbytes.quantize_4bit(torch.tensor(values), compress_statistics=True, quant_type="nf4")
    ours = nf4.quantised(values, offset=state.offset.item())
    assert np.array_equal(ours.codes, packed.numpy().reshape(-1))
    assert np.array_equal(ours.scales, state.absmax.numpy())
    assert np.array_equal(ours.dequantised(), of_bitsandbytes.dequantize_4bit(packed, state).numpy())


def test_constants_are_the_quantiles_that_the_paper_defines():
    quantile = NormalDist().inv_cdf
    above = [quantile(p) for p in np.linspace(0.9677083, 0.5, 9)[:-1]]
    below = [-quantile(p) for p in np.linspace(0.9677083, 0.5, 8)[:-1]]
    expected = np.sort(np.array([*above, 0.0, *below]))
    np.testing.assert_allclose(nf4.TABLE, expected / expected.max(), atol=4e-7)


def test_a_value_takes_little_more_than_four_bits():
    packed = nf4.quantised(np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32))
    assert packed.codes.nbytes * 8 / 1024**2 == 4
    assert (packed.scales.nbytes + packed.nested.absmax.nbytes) * 8 / 1024**2 < 0.128
    assert packed.nbytes * 8 / 1024**2 < 4.14
