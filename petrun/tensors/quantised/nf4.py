"""NF4 with double quantisation: 4-bit codes for 16 quantiles of the normal distribution, 4.127 bits a value.

    q_i = the nearest of 16 values to w_i / absmax_b,  blocks b of 64 values of the flattened matrix
    absmax_b ~ dynamic[c_b] * absmax2_B + mean(absmax),  blocks B of 256 of the absmax_b - mean(absmax)

Source: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv 2305.14314, section 3 and appendix E; Dettmers et al.,
"8-bit Optimizers via Block-wise Quantization", arXiv 2110.02861, section 1.3 (the dynamic map). Codes and values are those of bitsandbytes
0.50 on the CPU to the bit, for the same mean: torch's float32 sum, and with it the mean's last bit, depends on the machine and its threads.
Here it is the mean rounded once.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from petrun.tensors.dtypes import Array
from petrun.tensors.quantised.packed import NestedScales, PackedMatrix, two_in_a_byte

BLOCK = 64
NESTED_BLOCK = 256
TABLE = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
"""The constants of appendix E."""
_SMALLEST = np.float32(1e-38)
_CHUNK = 1 << 20
"""Values that are quantised at a time: numpy needs several times the memory of its operands."""
_GRID = 65535
"""bitsandbytes looks the code of a scale up in a table over so many steps of [-1, 1]: near the middle of two codes it is not always the
nearer one."""


def quantised(weight: Array, *, offset: float | None = None) -> PackedMatrix:
    """Quantise a finite matrix (out, in). `offset`: of the scales, where it is not their mean."""
    values = np.asarray(weight, np.float32)
    codes, absmax = block_codes(values.reshape(-1))
    shift = np.float32(absmax.astype(np.float64).mean() if offset is None else offset)
    scale_codes, absmax2 = nested_codes(absmax - shift)
    nested = NestedScales(table=dynamic_map(), absmax=absmax2, offset=float(shift), block=NESTED_BLOCK)
    return PackedMatrix(
        form="nf4",
        shape=(values.shape[0], values.shape[1]),
        codes=codes,
        table=TABLE,
        block=BLOCK,
        scales=scale_codes,
        nested=nested,
    )


def block_codes(flat: Array) -> tuple[Array, Array]:
    """Return codes of a float32 vector (N,), two in a byte (ceil(N / 2),) uint8, and the blocks' absmax (ceil(N / 64),) float32."""
    full = flat.size // BLOCK * BLOCK
    codes = np.empty((flat.size + 1) // 2, np.uint8)
    absmax = np.empty(-(-flat.size // BLOCK), np.float32)
    for first in range(0, full, _CHUNK):
        blocks = flat[first : min(first + _CHUNK, full)].reshape(-1, BLOCK)
        largest = np.abs(blocks).max(1)
        absmax[first // BLOCK :][: largest.size] = largest
        scaled = blocks * (np.float32(1) / np.maximum(largest, _SMALLEST))[:, None]
        codes[first // 2 :][: blocks.size // 2] = two_in_a_byte(_nearest(scaled.reshape(-1)))
    rest = flat[full:]
    if rest.size:
        absmax[-1] = np.maximum(np.abs(rest).max(), _SMALLEST)
        scaled = np.append(rest / absmax[-1], np.zeros(rest.size % 2, np.float32))
        codes[full // 2 :] = two_in_a_byte(_nearest(scaled))
    return codes, absmax


def _nearest(scaled: Array) -> Array:
    bounds = (TABLE[:-1] + TABLE[1:]) / np.float32(2)
    found = np.zeros(scaled.shape, np.uint8)
    # Fifteen comparisons take a third of the time of a binary search.
    for bound in bounds:
        found += scaled > bound
    return found


def nested_codes(values: Array) -> tuple[Array, Array]:
    """Return 8-bit codes of a float32 vector (N,), uint8 (N,), and the blocks' absmax (ceil(N / 256),) float32."""
    blocks = -(-values.size // NESTED_BLOCK)
    padded = np.zeros(blocks * NESTED_BLOCK, np.float32)
    padded[: values.size] = values
    padded = padded.reshape(blocks, NESTED_BLOCK)
    absmax = np.abs(padded).max(1)
    with np.errstate(divide="ignore"):
        inverse = np.where(absmax > 0, np.float32(1) / absmax, np.float32(0)).astype(np.float32)
    scaled = np.clip(padded * inverse[:, None], -1, 1)
    step = ((scaled + np.float32(1)) * np.float32(_GRID / 2) + np.float32(0.5)).astype(np.int64)
    codes = _dynamic_lookup()[step]
    codes[absmax == 0] = 0
    return codes.reshape(-1)[: values.size], absmax


@lru_cache
def _dynamic_lookup() -> Array:
    """Return the code of every step of the grid, (65536,) uint8."""
    values = dynamic_map()
    grid = np.arange(_GRID + 1, dtype=np.float32) * np.float32(2 / _GRID) - np.float32(1)
    found: Array = np.searchsorted((values[:-1] + values[1:]) / np.float32(2), grid, "left").astype(np.uint8)
    return found


@lru_cache
def dynamic_map() -> Array:
    """Return the 256 signed values of the dynamic type with up to 7 exponent bits, ascending, float32 (256,)."""
    found = [0.0, 1.0]
    for exponent in range(7):
        edges = _evenly(0.1, 1.0, 2**exponent + 1)
        middles = (edges[:-1] + edges[1:]) / np.float32(2)
        scaled = np.float32(10.0 ** (exponent - 6)) * middles
        found += [*scaled, *-scaled]
    return np.sort(np.array(found, np.float32))


def _evenly(first: float, last: float, count: int) -> Array:
    """Return float32 numbers as torch.linspace does: from both ends towards the middle, product and sum rounded once."""
    low, high = np.float64(np.float32(first)), np.float64(np.float32(last))
    step = np.float64((np.float32(last) - np.float32(first)) / np.float32(count - 1))
    index = np.arange(count)
    found: Array = np.where(index < count // 2, low + step * index, high - step * (count - 1 - index))
    return found.astype(np.float32)
