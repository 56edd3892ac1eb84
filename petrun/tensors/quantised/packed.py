"""Define a matrix in 8 or 4 bits, whatever tool made it, and its values.

    w = (v(q) - zero) * scale * unit

q is a code, v its value: the integer itself, or an entry of a table. A run of `block` codes, along the rows of the flattened matrix, shares
a scale and a zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from petrun.tensors.dtypes import Array

_ROW_ELEMENTS = 1 << 19


@dataclass(frozen=True, kw_only=True)
class PackedLayout:
    """A matrix in codes but for its numbers: what a graph is compiled from."""

    form: str
    shape: tuple[int, int]
    block: int
    bits: int
    unit: float = 1.0
    nested_block: int = 0
    """Scales that share one of their own; 0: scales are float32."""
    has_zeros: bool = False
    is_ordered: bool = False

    @property
    def blocks(self) -> int:
        return -(-self.shape[0] * self.shape[1] // self.block)

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Name of each array that a layer holds -> (shape, dtype)."""
        count = self.shape[0] * self.shape[1]
        found: dict[str, tuple[tuple[int, ...], str]] = {
            "codes": ((count,), "int8" if self.form == "int8" else "uint8")
        }
        if self.bits == 4:
            found["codes"] = (((count + 1) // 2,), "uint8")
        found["scales"] = ((self.blocks,), "uint8" if self.nested_block else "float32")
        if self.nested_block:
            found["nested_absmax"] = ((-(-self.blocks // self.nested_block),), "float32")
            found["nested_offset"] = ((1,), "float32")
        if self.has_zeros:
            found["zeros"] = ((self.blocks,), "float32")
        if self.is_ordered:
            found["order"] = ((self.shape[1],), "int32")
        return found


@dataclass(frozen=True, kw_only=True)
class PackedMatrix:
    """A matrix (out, in) in codes of 8 or 4 bits."""

    form: str
    """Name of the form that users see: int8, nf4, fp4, gptq-4, gptq-8, awq-4 ..."""
    shape: tuple[int, int]
    """(out, in)."""
    codes: Array
    """int8 or uint8 (out * in,), or two codes of 4 bits in a uint8 (ceil(out * in / 2),), the first in the high half."""
    table: Array | None
    """The values of the codes, float32 (16,) for codes of 4 bits, (256,) for uint8; None: int8 codes are their own values."""
    block: int
    """Codes that share a scale."""
    scales: Array
    """float32 (ceil(out * in / block),); for double quantisation uint8 codes of it, which `nested` explains."""
    nested: NestedScales | None = None
    zeros: Array | None = None
    """float32, as many as scales; None: 0."""
    unit: float = 1.0
    order: Array | None = None
    """int32 (in,): column i of the codes is column order[i] of the matrix; None: they are in order."""

    @property
    def bits(self) -> int:
        return 4 if self.table is not None and self.table.size == 16 else 8

    @property
    def layout(self) -> PackedLayout:
        return PackedLayout(
            form=self.form,
            shape=self.shape,
            block=self.block,
            bits=self.bits,
            unit=self.unit,
            nested_block=0 if self.nested is None else self.nested.block,
            has_zeros=self.zeros is not None,
            is_ordered=self.order is not None,
        )

    def block_scales(self, blocks: slice = slice(None)) -> Array:
        """Return the scale of some blocks (or all), float32."""
        if self.nested is None:
            return self.scales[blocks]
        first, end, _ = blocks.indices(self.scales.size)
        return self.nested.decoded(self.scales[first:end], first)

    def dequantised(self, rows: slice = slice(None)) -> Array:
        """Return the values of some rows (or all), (rows, in) float32, C order."""
        first, end, _ = rows.indices(self.shape[0])
        width = self.shape[1]
        start, stop = first * width, max(first, end) * width
        values = self._values(start, stop)
        blocks = np.arange(start // self.block, -(-stop // self.block))
        counts = np.minimum((blocks + 1) * self.block, stop) - np.maximum(blocks * self.block, start)
        if self.zeros is not None:
            values -= np.repeat(self.zeros[blocks], counts)
        values *= np.repeat(self.block_scales(slice(blocks[0], blocks[-1] + 1) if blocks.size else slice(0)), counts)
        if self.unit != 1.0:
            values *= np.float32(self.unit)
        found = values.reshape(-1, width)
        if self.order is None:
            return found
        ordered = np.empty_like(found)
        ordered[:, self.order] = found
        return ordered

    def row_blocks(self) -> Iterator[tuple[slice, Array]]:
        """Yield (rows, their values), in order, a few rows at a time."""
        many = max(1, _ROW_ELEMENTS // max(1, self.shape[1]))
        for first in range(0, self.shape[0], many):
            rows = slice(first, min(first + many, self.shape[0]))
            yield rows, self.dequantised(rows)

    def _values(self, start: int, stop: int) -> Array:
        if self.table is None:
            return self.codes[start:stop].astype(np.float32)
        if self.bits == 8:
            picked: Array = self.table[self.codes[start:stop]]
            return picked
        both = self.codes[start // 2 : (stop + 1) // 2]
        halves = np.empty(2 * both.size, np.uint8)
        halves[0::2], halves[1::2] = both >> 4, both & 15
        found: Array = self.table[halves[start % 2 : start % 2 + stop - start]]
        return found

    @property
    def arrays(self) -> dict[str, Array]:
        """The arrays by name, in a fixed order: what a digest is taken over."""
        nested = {} if self.nested is None else self.nested.arrays
        held = {
            "codes": self.codes,
            "table": self.table,
            "scales": self.scales,
            "zeros": self.zeros,
            "order": self.order,
        }
        return {name: values for name, values in held.items() if values is not None} | nested

    @property
    def nbytes(self) -> int:
        return sum(values.nbytes for values in self.arrays.values())


@dataclass(frozen=True, kw_only=True)
class NestedScales:
    """How the scales themselves are quantised: scale_i = table[q_i] * absmax[i // block] + offset."""

    table: Array
    """float32 (256,)."""
    absmax: Array
    """float32 (ceil(scales / block),)."""
    offset: float
    block: int = 256

    def decoded(self, codes: Array, first: int = 0) -> Array:
        """Return the scales, float32, of a run of uint8 codes that begins with the scale number `first`."""
        shared = self.absmax[np.arange(first, first + codes.size) // self.block]
        found: Array = self.table[codes] * shared + np.float32(self.offset)
        return found

    @property
    def arrays(self) -> dict[str, Array]:
        offset = np.array([self.offset], np.float32)
        return {"nested_table": self.table, "nested_absmax": self.absmax, "nested_offset": offset}


def two_in_a_byte(codes: Array) -> Array:
    """Pack uint8 codes below 16, an even number of them, two in a byte, the first in the high half."""
    flat = codes.reshape(-1)
    packed: Array = (flat[0::2] << 4) | flat[1::2]
    return packed
