"""Name the element types of stored tensors in petrun, in safetensors, in a MindSpore checkpoint and in numpy.

numpy has no bfloat16. Its 16 bits are the upper half of a float32, so a stored bfloat16 is read as the
float32 of the same value (exact) and written by rounding a float32 to the nearest, ties to even (IEEE 754).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
_CHUNK = 1 << 17


@dataclass(frozen=True, kw_only=True)
class DType:
    name: str
    """The name that numpy and MindSpore's Python side use: "float32", "bfloat16", "bool"."""
    safetensors: str
    ckpt: str
    """`tensor_type` of a MindSpore checkpoint; "" where it has none."""
    numpy: str | None
    """Little-endian numpy type of the stored elements (bfloat16: of its bits); None: numpy cannot hold it."""
    bits: int

    @property
    def floating(self) -> bool:
        return "float" in self.name


DTYPES: tuple[DType, ...] = (
    DType(name="float64", safetensors="F64", ckpt="Float64", numpy="<f8", bits=64),
    DType(name="float32", safetensors="F32", ckpt="Float32", numpy="<f4", bits=32),
    DType(name="float16", safetensors="F16", ckpt="Float16", numpy="<f2", bits=16),
    DType(name="bfloat16", safetensors="BF16", ckpt="BFloat16", numpy="<u2", bits=16),
    DType(name="int64", safetensors="I64", ckpt="Int64", numpy="<i8", bits=64),
    DType(name="int32", safetensors="I32", ckpt="Int32", numpy="<i4", bits=32),
    DType(name="int16", safetensors="I16", ckpt="Int16", numpy="<i2", bits=16),
    DType(name="int8", safetensors="I8", ckpt="Int8", numpy="<i1", bits=8),
    DType(name="uint64", safetensors="U64", ckpt="UInt64", numpy="<u8", bits=64),
    DType(name="uint32", safetensors="U32", ckpt="UInt32", numpy="<u4", bits=32),
    DType(name="uint16", safetensors="U16", ckpt="UInt16", numpy="<u2", bits=16),
    DType(name="uint8", safetensors="U8", ckpt="UInt8", numpy="|u1", bits=8),
    DType(name="bool", safetensors="BOOL", ckpt="Bool", numpy="|b1", bits=8),
    DType(name="complex64", safetensors="C64", ckpt="Complex64", numpy="<c8", bits=64),
    # Listed so that a file's sizes can be checked and the error names the type; their values cannot be read.
    DType(name="float8_e4m3", safetensors="F8_E4M3", ckpt="Float8E4M3FN", numpy=None, bits=8),
    DType(name="float8_e5m2", safetensors="F8_E5M2", ckpt="Float8E5M2", numpy=None, bits=8),
    DType(name="float8_e8m0", safetensors="F8_E8M0", ckpt="", numpy=None, bits=8),
    DType(name="float6_e2m3", safetensors="F6_E2M3", ckpt="", numpy=None, bits=6),
    DType(name="float6_e3m2", safetensors="F6_E3M2", ckpt="", numpy=None, bits=6),
    DType(name="float4", safetensors="F4", ckpt="", numpy=None, bits=4),
    DType(name="int4", safetensors="I4", ckpt="Int4", numpy=None, bits=4),
)

BY_NAME: dict[str, DType] = {d.name: d for d in DTYPES}
BY_SAFETENSORS: dict[str, DType] = {d.safetensors: d for d in DTYPES}
BY_CKPT: dict[str, DType] = {d.ckpt: d for d in DTYPES if d.ckpt}


def from_bfloat16(bits: Array) -> Array:
    """Convert uint16 bit patterns to float32 of the same values."""
    wide = bits.astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def to_bfloat16(values: Array) -> Array:
    """Convert float32 to uint16 bit patterns of the nearest bfloat16, ties to even. NaN stays NaN; overflow becomes infinity."""
    whole = np.ascontiguousarray(values, np.float32)
    bits = whole.reshape(-1).view(np.uint32)
    out = np.empty(bits.size, np.uint16)
    # In chunks that fit the processor's cache: a large matrix costs no further copies of itself.
    for start in range(0, bits.size, _CHUNK):
        chunk = bits[start : start + _CHUNK]
        rounded = chunk >> np.uint32(16)
        rounded &= np.uint32(1)
        rounded += np.uint32(0x7FFF)
        rounded += chunk
        rounded >>= np.uint32(16)
        nan = (chunk & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        if nan.any():
            rounded[nan] = (chunk[nan] >> np.uint32(16)) | np.uint32(0x0040)
        out[start : start + _CHUNK] = rounded
    return out.reshape(whole.shape)


def dtype_of(array: Array) -> str:
    """Return the name of a numpy array's element type. Raises KeyError for one that no file format here stores."""
    name = array.dtype.name
    if name not in BY_NAME:
        raise KeyError(name)
    return name


def encode(array: Array, dtype: str) -> bytes:
    """Return an array's elements as `dtype`, little-endian, C order."""
    return bytes(encoded(array, dtype))


def encoded(array: Array, dtype: str) -> memoryview:
    """Do as `encode`, but return the array's own memory where it has that form already."""
    stored = BY_NAME[dtype].numpy
    if stored is None:
        raise ValueError(f"{dtype} cannot be written")
    values = to_bfloat16(array) if dtype == "bfloat16" else np.ascontiguousarray(array)
    flat = values.astype(stored, copy=False).reshape(-1)
    return memoryview(flat.view(np.uint8).data) if flat.size else memoryview(b"")


def holds_nonfinite(stored: bytes | memoryview, dtype: str) -> bool:
    """Return whether stored elements of a floating type hold a NaN or an infinity: an exponent of ones alone."""
    width, mask = {
        "float64": ("<u8", 0x7FF0 << 48),
        "float32": ("<u4", 0x7F80 << 16),
        "float16": ("<u2", 0x7C00),
        "bfloat16": ("<u2", 0x7F80),
    }[dtype]
    bits = np.frombuffer(stored, width)
    return any(
        bool(((bits[start : start + _CHUNK] & bits.dtype.type(mask)) == mask).any())
        for start in range(0, bits.size, _CHUNK)
    )
