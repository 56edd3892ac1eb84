"""Read a matrix of a file a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from petrun.tensors.dtypes import BY_NAME, Array, from_bfloat16
from petrun.tensors.reader import TensorReader

_BLOCK_ELEMENTS = 1 << 19


def row_blocks(reader: TensorReader, name: str, elements: int = _BLOCK_ELEMENTS) -> Iterator[tuple[slice, Array]]:
    """Yield (rows, their values) of a stored matrix (R, C), in order, at most `elements` values each but one row at least.

    Values and errors are those of `TensorReader.read`. Works for formats that hold a tensor in one run of bytes.
    """
    info = reader.info(name)
    count, width = info.shape
    if not info.elements:
        yield slice(0, count), np.zeros(info.shape, np.float32)
        return
    stored = BY_NAME[info.dtype].numpy
    assert stored is not None, info.dtype
    many = max(1, elements // width)
    start = 0
    for chunk in reader.raw_chunks(name, many * width * np.dtype(stored).itemsize):
        block = np.frombuffer(chunk, stored).reshape(-1, width)
        native = block.astype(block.dtype.newbyteorder("="), copy=False)
        values = from_bfloat16(native) if info.dtype == "bfloat16" else native
        yield slice(start, start + len(block)), values
        start += len(block)
