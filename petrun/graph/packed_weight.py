"""Hold a frozen matrix in 8 or 4 bits in a net, and the linear layer that has one in the place of its weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from petrun.graph.outline import is_outline
from petrun.graph.surgery import swap
from petrun.kernels import NestedScales, PackedProduct, PackedValues
from petrun.tensors import Array
from petrun.tensors.quantised.nf4 import TABLE as NF4
from petrun.tensors.quantised.nf4 import dynamic_map
from petrun.tensors.quantised.packed import NestedScales as NestedArrays
from petrun.tensors.quantised.packed import PackedLayout, PackedMatrix
from petrun.typing import Cell, DType

PACKED = "packed"
"""Attribute of a layer that holds its PackedWeight, and so a part of the names of its parameters."""
_BLOCK = 1 << 20
"""Values of a matrix that are computed at a time."""


class PackedWeight(nn.Cell):
    """A frozen matrix (out, in) in codes.

    Inputs: x (M, in) float. Returns: x W^T (M, out) in the dtype of x; `matrix()` gives W (out, in) float32.
    Owns: codes, scales and what else PackedLayout.arrays names; none of them trains.
    """

    def __init__(self, layout: PackedLayout, dtype: DType, matrix: PackedMatrix | None = None) -> None:
        """`dtype`: what the layer computes in. `matrix`: its numbers; None: zeros that take no memory until `hold`."""
        super().__init__()
        self.layout, self.dtype = layout, dtype
        for name, (shape, kind) in layout.arrays.items():
            values = initializer("zeros", shape, getattr(ms, kind)) if matrix is None else Tensor(matrix.arrays[name])
            self.insert_param_to_cell(name, Parameter(values, name=name, requires_grad=False))
        self.table = Tensor(_table(layout, matrix))
        self.no_zeros = Tensor(np.zeros(1, np.float32))
        self.times = PackedProduct(layout.shape, layout.block, layout.unit, layout.bits)
        self.values = PackedValues(layout.shape, layout.block, layout.unit, layout.bits)
        self.gather = ops.Gather()
        if layout.nested_block:
            nested = dynamic_map() if matrix is None or matrix.nested is None else matrix.nested.table
            self.nested = NestedScales(np.ascontiguousarray(nested), layout.nested_block)
        self.block_scales = self.nested_scales if layout.nested_block else self.own_scales
        self.block_zeros = self.own_zeros if layout.has_zeros else self.without_zeros
        self.columns = self.in_order if layout.is_ordered else self.as_they_are

    def construct(self, x: Tensor) -> Tensor:
        """Compute x W^T."""
        return self.times(self.columns(x), self.codes, self.table, self.block_scales(), self.block_zeros())

    def shard(
        self, strategy: tuple[tuple[int, ...], ...] | None, results: tuple[tuple[int, ...], ...] | None = None
    ) -> None:
        """Split the product over devices, as that of x (M, in) and a weight (out, in) is."""
        self.times.shard(strategy, results)

    def matrix(self) -> Tensor:
        """Return W (out, in) float32."""
        return self.values(self.codes, self.table, self.block_scales(), self.block_zeros())

    def own_scales(self) -> Tensor:
        """Return the scales as they are held."""
        return self.scales

    def nested_scales(self) -> Tensor:
        """Return the scales, of which codes are held."""
        return self.nested(self.scales, self.nested_absmax, self.nested_offset)

    def own_zeros(self) -> Tensor:
        """Return what is taken off the codes of each block."""
        return self.zeros

    def without_zeros(self) -> Tensor:
        """Return one 0."""
        return self.no_zeros

    def in_order(self, x: Tensor) -> Tensor:
        """Return the columns of x in the order of the codes."""
        return self.gather(x, self.order, 1)

    def as_they_are(self, x: Tensor) -> Tensor:
        """Return x."""
        return x

    def fill(self, matrix: PackedMatrix) -> None:
        """Set the numbers, before the net is compiled. `matrix` has the cell's layout."""
        assert matrix.layout == self.layout, (matrix.layout, self.layout)
        for name, values in matrix.arrays.items():
            if name in self.layout.arrays:
                getattr(self, name).set_data(Tensor(np.ascontiguousarray(values)))
        self.table = Tensor(_table(self.layout, matrix))
        if matrix.nested is not None:
            self.nested.table = Tensor(np.ascontiguousarray(matrix.nested.table))

    def stored(self) -> PackedMatrix:
        """Return the numbers that the cell holds now."""
        held = {name: getattr(self, name).asnumpy() for name in self.layout.arrays}
        nested = None
        if self.layout.nested_block:
            nested = NestedArrays(
                table=self.nested.table.asnumpy(),
                absmax=held["nested_absmax"],
                offset=float(held["nested_offset"][0]),
                block=self.layout.nested_block,
            )
        return PackedMatrix(
            form=self.layout.form,
            shape=self.layout.shape,
            codes=held["codes"],
            table=None if self.table.size == 1 else self.table.asnumpy(),
            block=self.layout.block,
            scales=held["scales"],
            nested=nested,
            zeros=held.get("zeros"),
            unit=self.layout.unit,
            order=held.get("order"),
        )


def _table(layout: PackedLayout, matrix: PackedMatrix | None) -> Array:
    if matrix is not None:
        return np.zeros(1, np.float32) if matrix.table is None else np.ascontiguousarray(matrix.table)
    if layout.form == "int8":
        return np.zeros(1, np.float32)
    return NF4 if layout.form == "nf4" else np.arange(2**layout.bits, dtype=np.float32)


class PackedDense(nn.Dense):
    """x W^T + b with W in codes.

    Inputs: x (..., in). Returns: (..., out), x's dtype. Owns: packed.*, frozen; bias (out,), as the layer had it.
    """

    splits_tokens = True

    def __init__(self, dense: Cell, layout: PackedLayout, matrix: PackedMatrix | None = None) -> None:
        """`dense`: the layer whose place it takes; its bias is kept."""
        super().__init__(
            dense.in_channels, dense.out_channels, "zeros", "zeros", dense.has_bias, dtype=dense.weight.dtype
        )
        hold(self, PackedWeight(layout, dense.weight.dtype, matrix))
        if dense.has_bias:
            self.bias = dense.bias
        self.set_train(dense.training)

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """As a linear layer's: `column`: outputs over tp ranks; `row`: inputs; `scattered`: the same, and rows of the result over all."""
        outer, inner = (tp if how == "column" else 1), (tp if how in ("row", "scattered") else 1)
        rows = dp * tp if how == "scattered" else dp
        self.packed.shard(((dp, inner), (outer, inner)), ((rows, outer),) if how == "scattered" else None)
        if self.has_bias:
            self.bias_add.shard(((rows, outer), (outer,)))

    def construct(self, x: Tensor) -> Tensor:
        y = self.packed(ops.reshape(x, (-1, self.in_channels)))
        if self.has_bias:
            y = self.bias_add(y, ops.cast(self.bias, x.dtype))
        return ops.reshape(y, (*x.shape[:-1], self.out_channels))


def hold(cell: Cell, packed: PackedWeight) -> None:
    """Give an nn.Dense a packed matrix in the place of its weight."""
    del cell.weight
    cell.packed = packed


def packed_of(cell: Cell) -> PackedWeight | None:
    """Return the packed matrix of a layer; None for one that has a weight."""
    found: PackedWeight | None = getattr(cell, PACKED, None)
    return found


def compute_dtype_of(dense: Cell) -> DType:
    """Return the type that a linear layer's matrix computes in."""
    packed = packed_of(dense)
    return dense.weight.dtype if packed is None else packed.dtype


def is_outlined(dense: Cell) -> bool:
    """Return whether a linear layer's matrix has no values."""
    packed = packed_of(dense)
    return is_outline(dense.weight if packed is None else packed.codes)


def weight_rows(dense: Cell) -> Iterator[tuple[slice, Array]]:
    """Yield the matrix of a linear layer a few rows at a time, float32."""
    packed = packed_of(dense)
    if packed is not None:
        yield from packed.stored().row_blocks()
        return
    # numpy has no bfloat16.
    weight = dense.weight.value().astype(ms.float32) if dense.weight.dtype == ms.bfloat16 else dense.weight
    values = weight.asnumpy()
    step = max(1, _BLOCK // max(1, values.shape[1]))
    for first in range(0, len(values), step):
        rows = slice(first, first + step)
        yield rows, values[rows].astype(np.float32)


def weight_values(dense: Cell) -> Array:
    """Return the matrix of a linear layer, (out, in) float32."""
    return np.concatenate([values for _, values in weight_rows(dense)])


def pack(net: Cell, layouts: Mapping[str, PackedLayout]) -> None:
    """Replace the nn.Dense at each path by one with a matrix in codes: zeros that take no memory until it is filled."""

    def builder(layout: PackedLayout) -> Callable[[Cell], Cell]:
        return lambda dense: PackedDense(dense, layout)

    if layouts:
        swap(net, {path: builder(layout) for path, layout in layouts.items()})


def packed_weights(net: Cell) -> list[PackedWeight]:
    """Return the matrices of a net that are in codes."""
    return [cell for _, cell in net.cells_and_names() if isinstance(cell, PackedWeight)]


def packed_parameters(net: Cell) -> dict[str, str]:
    """Return, of every parameter that is a part of a matrix in codes, its name -> the form."""
    return {p.name: cell.layout.form for cell in packed_weights(net) for p in cell.get_parameters()}


def packed_values(net: Cell) -> int:
    """Count the values of a net's matrices in codes."""
    return sum(prod(cell.layout.shape) for cell in packed_weights(net))
