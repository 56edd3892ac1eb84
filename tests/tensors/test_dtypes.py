"""Element types: known bit patterns of bfloat16, and that every type survives a round trip."""

import struct

import numpy as np
import pytest

from petrun.tensors.dtypes import BY_CKPT, BY_NAME, BY_SAFETENSORS, DTYPES, dtype_of, encode, from_bfloat16, to_bfloat16

# value -> its bfloat16 bits, from the definition: sign, 8 bits of exponent, 7 of mantissa.
PATTERNS = {
    0x0000: 0.0,
    0x8000: -0.0,
    0x3F80: 1.0,
    0xC020: -2.5,
    0x4049: 3.140625,
    0x0080: 2.0**-126,
    0x0001: 2.0**-133,
    0x7F7F: 3.3895313892515355e38,
    0x7F80: np.inf,
    0xFF80: -np.inf,
}


@pytest.mark.parametrize(("bits", "value"), PATTERNS.items())
def test_known_bfloat16_patterns_both_ways(bits, value):
    read = from_bfloat16(np.array([bits], np.uint16))
    assert read.dtype == np.float32
    assert struct.pack("<f", read[0]) == struct.pack("<f", value)
    assert to_bfloat16(np.array([value], np.float32))[0] == bits


def test_every_bfloat16_survives_float32():
    bits = np.arange(1 << 16, dtype=np.uint16)
    nan = (bits & 0x7FFF) > 0x7F80
    values = from_bfloat16(bits)
    assert np.isnan(values[nan]).all() and not np.isnan(values[~nan]).any()
    assert (to_bfloat16(values)[~nan] == bits[~nan]).all()
    assert ((to_bfloat16(values)[nan] & 0x7FFF) > 0x7F80).all()


@pytest.mark.parametrize(
    ("float_bits", "bits"),
    [
        (0x3F808000, 0x3F80),  # half way, to even: down
        (0x3F818000, 0x3F82),  # half way, to even: up
        (0x3F808001, 0x3F81),  # above half way
        (0x3F807FFF, 0x3F80),  # below half way
        (0x7F7FFFFF, 0x7F80),  # the largest float32 is beyond bfloat16
        (0x7F800001, 0x7FC0),  # a NaN whose upper half would read as infinity
    ],
)
def test_rounding_is_to_nearest_even(float_bits, bits):
    value = np.array([float_bits], np.uint32).view(np.float32)
    assert to_bfloat16(value)[0] == bits


def test_names_are_unique_in_every_format():
    assert len(DTYPES) == 21
    assert len(BY_NAME) == len(BY_SAFETENSORS) == len(DTYPES)
    assert len(BY_CKPT) == sum(bool(d.ckpt) for d in DTYPES)


def test_encoding_is_little_endian_and_c_ordered():
    values = np.arange(6, dtype=">i4").reshape(2, 3)
    assert encode(values, "int32") == struct.pack("<6i", *range(6))
    assert encode(np.asfortranarray(values), "int32") == struct.pack("<6i", *range(6))
    assert encode(values.T, "int32") == struct.pack("<6i", 0, 3, 1, 4, 2, 5)
    assert encode(np.array([1.0, -2.5], np.float32), "bfloat16") == b"\x80\x3f\x20\xc0"


def test_types_without_a_numpy_form():
    with pytest.raises(ValueError, match="float8_e4m3"):
        encode(np.zeros(2, np.float32), "float8_e4m3")
    with pytest.raises(KeyError):
        dtype_of(np.array(["text"]))
