"""Operators that arrange elements: reshape, transpose, slice, join, gather."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from petrun.errors import SetupError
from petrun.rehearsal.operators.types import Compute, Value
from petrun.rehearsal.step_graph import Node
from petrun.tensors import Array

_MASKS = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")


def reshape(node: Node, x: Array, shape: Sequence[int]) -> Value:
    return np.reshape(x, tuple(shape))


def transpose(node: Node, x: Array, order: Sequence[int]) -> Value:
    return np.transpose(x, tuple(order))


def expand_dims(node: Node, x: Array, axis: int) -> Value:
    return np.expand_dims(x, axis)


def squeeze(node: Node, x: Array, axis: Value) -> Value:
    return np.reshape(x, node.results[0].shape)


def concat(node: Node, items: Sequence[Array], axis: int) -> Value:
    return np.concatenate(items, axis)


def stack(node: Node, items: Sequence[Array]) -> Value:
    return np.stack(items, int(str(node.attributes["axis"])))


def pad(node: Node, x: Array) -> Value:
    widths = node.attributes["paddings"]
    assert isinstance(widths, Sequence)
    return np.pad(x, [(int(before), int(after)) for before, after in widths])


def sliced(node: Node, x: Array, begin: Sequence[int], size: Sequence[int]) -> Value:
    return x[tuple(slice(first, first + count) for first, count in zip(begin, size, strict=True))]


def split_with_size(node: Node, x: Array, sizes: Sequence[int], axis: int) -> Value:
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


def split(node: Node, x: Array, axis: int, count: int) -> Value:
    return tuple(np.split(x, count, axis))


def tile(node: Node, x: Array, times: Sequence[int]) -> Value:
    return np.tile(x, tuple(times))


def broadcast_to(node: Node, x: Array, shape: Sequence[int]) -> Value:
    return np.broadcast_to(x, node.results[0].shape)


def strided_slice(
    node: Node, x: Array, begin: Sequence[int], end: Sequence[int], strides: Sequence[int], *masks: int
) -> Value:
    found = dict(zip(_MASKS, masks, strict=False))
    return np.reshape(x[_slices(node, found, begin, end, strides)], node.results[0].shape)


def strided_slice_grad(
    node: Node, dy: Array, shape: Sequence[int], begin: Sequence[int], end: Sequence[int], strides: Sequence[int]
) -> Value:
    dx = np.zeros(tuple(shape), dy.dtype)
    found = {name: int(str(node.attributes.get(name, 0))) for name in _MASKS}
    place = _slices(node, found, begin, end, strides)
    dx[place] = np.reshape(dy, dx[place].shape)
    return dx


def _slices(
    node: Node, masks: dict[str, int], begin: Sequence[int], end: Sequence[int], strides: Sequence[int]
) -> tuple[slice, ...]:
    """Return slices that keep every axis. Bit i of a mask is of axis i. Raises SetupError for masks that are not computed here."""
    if masks.get("ellipsis_mask") or masks.get("new_axis_mask"):
        raise SetupError(f"{node.layer}: a {node.operator} with an ellipsis or a new axis is not computed")
    found = []
    for i, (start, stop, step) in enumerate(zip(begin, end, strides, strict=True)):
        if masks.get("shrink_axis_mask", 0) >> i & 1:
            found.append(slice(start, start + 1 or None))
            continue
        no_start, no_stop = masks.get("begin_mask", 0) >> i & 1, masks.get("end_mask", 0) >> i & 1
        found.append(slice(None if no_start else start, None if no_stop else stop, step))
    return tuple(found)


def gather(node: Node, table: Array, indices: Array, axis: int, batch_dims: int) -> Value:
    """Rows of a table. An index beyond it gives zeros, as on Ascend."""
    if batch_dims:
        raise SetupError(f"{node.layer}: a Gather with batch_dims={batch_dims} is not computed")
    known = (indices >= 0) & (indices < table.shape[axis])
    found = np.take(table, np.where(known, indices, 0), axis)
    place = known.reshape((1,) * axis + known.shape + (1,) * (table.ndim - axis - 1))
    return np.where(place, found, 0)


def gather_d(node: Node, x: Array, axis: int, index: Array) -> Value:
    return np.take_along_axis(x, index.astype(np.int64), axis)


def gather_d_grad(node: Node, x: Array, axis: int, index: Array, dy: Array) -> Value:
    dx = np.zeros(x.shape, np.float64)
    places = list(np.meshgrid(*(np.arange(size) for size in index.shape), indexing="ij"))
    places[axis] = index
    np.add.at(dx, tuple(places), dy)
    return dx


def one_hot(node: Node, indices: Array, depth: int, on: Array, off: Array, axis: int = -1) -> Value:
    """`on` at each index, `off` elsewhere; an index beyond `depth` gives `off` alone."""
    if axis not in (-1, indices.ndim):
        raise SetupError(f"{node.layer}: a OneHot along axis {axis} is not computed")
    return np.where(np.arange(int(depth)) == indices[..., None], on, off)


def top_k(node: Node, x: Array, count: Value, *flags: Value) -> tuple[Array, Array]:
    """The largest values along the last axis, largest first, and where they are; of equal ones the first."""
    order = np.argsort(-x, -1, kind="stable")[..., : int(count)].astype(np.int32)
    return np.take_along_axis(x, order, -1), order


def unsorted_segment_sum(node: Node, x: Array, segments: Array, count: Value) -> Value:
    """Sum rows of x into the rows of the result that `segments` names; negative ones are left out."""
    total = np.zeros((int(count), *x.shape[segments.ndim :]), np.float64)
    flat, rows = segments.reshape(-1), x.reshape(-1, *x.shape[segments.ndim :])
    kept = (flat >= 0) & (flat < int(count))
    np.add.at(total, flat[kept], rows[kept])
    return total


def cumulated(node: Node, x: Array, axis: int, *flags: Value) -> Value:
    """CumSum. `flags`: exclusive, reverse."""
    if any(flags):
        raise SetupError(f"{node.layer}: a CumSum that is exclusive or from the end is not computed")
    return np.cumsum(x, axis)


def arange(node: Node, start: int, stop: int, step: int, *rest: Value) -> Value:
    return np.arange(start, stop, step)


def fill(node: Node, *inputs: Value) -> Value:
    """FillScalar(shape, value, dtype)."""
    return np.full(node.results[0].shape, inputs[1])


SHAPES: dict[str, Compute] = {
    "Arange": arange,
    "BroadcastTo": broadcast_to,
    "Concat": concat,
    "CumSum": cumulated,
    "ExpandDims": expand_dims,
    "FillScalar": fill,
    "Gather": gather,
    "GatherD": gather_d,
    "GatherDGradV2": gather_d_grad,
    "OneHot": one_hot,
    "Pad": pad,
    "Range": arange,
    "Reshape": reshape,
    "Slice": sliced,
    "Split": split,
    "SplitWithSize": split_with_size,
    "Squeeze": squeeze,
    "Stack": stack,
    "StridedSlice": strided_slice,
    "StridedSliceGrad": strided_slice_grad,
    "Tile": tile,
    "TopK": top_k,
    "Transpose": transpose,
    "UnsortedSegmentSum": unsorted_segment_sum,
}
