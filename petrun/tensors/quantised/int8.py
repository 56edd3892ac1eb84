"""int8 with a scale for every output: W ~ q * absmax / 127.

Source: Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", arXiv 2208.07339, section 3.1 (row-wise
quantisation). Here the weights alone are quantised, and activations stay as they are: no feature needs the paper's treatment of outliers.
Codes and values are those of bitsandbytes 0.50 (int8_vectorwise_quant, int8_vectorwise_dequant) to the bit.
"""

from __future__ import annotations

import numpy as np

from petrun.tensors.dtypes import Array
from petrun.tensors.quantised.packed import PackedMatrix

_CHUNK = 1 << 20
"""Values that are quantised at a time."""
UNIT = 7.874015718698502e-3
"""1 / 127 as bitsandbytes writes it."""


def quantised(weight: Array) -> PackedMatrix:
    """Quantise a finite matrix (out, in). A value differs by at most 1/254 of its row's largest."""
    values = np.asarray(weight, np.float32)
    absmax = np.maximum(values.max(1), -values.min(1))
    with np.errstate(divide="ignore", over="ignore"):
        factor = np.float32(127.0) / absmax
    # No number for a row of zeros, nor for one of subnormal numbers: both are taken as zero.
    factor[~np.isfinite(factor)] = 0
    codes = np.empty(values.shape, np.int8)
    step = max(1, _CHUNK // max(1, values.shape[1]))
    for first in range(0, len(values), step):
        rows = slice(first, first + step)
        codes[rows] = np.rint(values[rows] * factor[rows, None])
    return packed(codes, absmax)


def packed(codes: Array, absmax: Array) -> PackedMatrix:
    """Make the matrix of codes (out, in) int8 and row maxima (out,) float32."""
    out, wide = codes.shape
    return PackedMatrix(
        form="int8",
        shape=(out, wide),
        codes=np.ascontiguousarray(codes).reshape(-1),
        table=None,
        block=wide,
        scales=np.ascontiguousarray(absmax, np.float32),
        unit=UNIT,
    )
