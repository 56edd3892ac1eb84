"""int8 with a scale for every row against bitsandbytes' numbers, and the bound of its error."""

import numpy as np
import pytest

from petrun.tensors.quantised import int8
from tests.tensors.quantised.stored import CASES, stored, weight


@pytest.mark.parametrize("case", [case for case in CASES if case != "long"])
def test_codes_and_values_are_those_of_bitsandbytes(case):
    theirs, ours = stored(case), int8.quantised(weight(case))
    assert ours.shape == CASES[case] and ours.bits == 8
    assert np.array_equal(ours.codes.reshape(ours.shape), theirs["int8"])
    assert np.array_equal(ours.scales, theirs["rows"])
    assert np.array_equal(ours.dequantised(), theirs["int8_values"])


def test_error_is_within_half_a_step():
    values = weight("normal")
    error = np.abs(int8.quantised(values).dequantised() - values)
    assert (error <= np.abs(values).max(1, keepdims=True) / 254 * (1 + 1e-5)).all()


def test_rows_of_zeros_and_of_subnormal_numbers_are_zero():
    values = np.zeros((2, 4), np.float32)
    values[1] = 1e-44
    packed = int8.quantised(values)
    assert not packed.dequantised().any()
