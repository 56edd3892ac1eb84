"""Record the forward pass of a net's cells on a tape: shapes on one rank, copies of weights, masks, and what is computed again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from petrun.graph.packed_weight import PACKED, PackedWeight
from petrun.graph.sites import Sites, fits
from petrun.parallel.layout import Layout
from petrun.parallel.memory.tape import Tape, Value
from petrun.parallel.plan import role_of
from petrun.typing import Cell, Parameter

Follow = Callable[..., Any]
"""(recorder, cell, the values that `construct` is given) -> the values that it returns."""


class UnknownCellError(Exception):
    """The plan does not know what a cell keeps."""


@dataclass(frozen=True, kw_only=True)
class Rank:
    """What one rank computes, and on what."""

    ascend: bool
    """False: the CPU, with petrun's C++ operators where `fused`."""
    fused: bool
    layout: Layout
    stage: int = 0
    recompute: str = "none"
    item_bytes: int = 4
    """Bytes of a value of the compute dtype."""


class Recorder:
    """Follows cells; see `run`."""

    def __init__(self, net: Cell, sites: Sites, rank: Rank, cells: Mapping[type[Cell], Follow]) -> None:
        self.tape = Tape()
        self.sites, self.rank, self.cells = sites, rank, cells
        self.layout, self.ascend, self.item_bytes = rank.layout, rank.ascend, rank.item_bytes
        self.index_bytes = 0
        """Bytes of index tables, which MindSpore's CPU operators keep where they broadcast: 8 for each input and value of the result."""
        self.packed_bytes = 0
        """Bytes of the operands of the largest matrix product, which the CPU's kernel packs into memory of its own."""
        self.mask_bytes: list[int] = []
        """Bytes of the 32-bit numbers of every mask that is drawn before the forward pass."""
        self.again: set[int] = set()
        self.shapes: dict[int, tuple[int, ...]] = {}
        """id of a parameter -> its shape on this rank."""
        self.roles: dict[int, str | None] = {}
        self.values: dict[tuple[int, bool], Value] = {}
        self.gathers: dict[Value, Value] = {}
        paths = list(net.cells_and_names())
        tables = [cell for path, cell in paths if role_of(path, sites) == "vocabulary"]
        uneven = {cell.weight.shape[0] for cell in tables if hasattr(cell, "weight")}
        whole = any(rows % self.layout.tp for rows in uneven)
        for path, cell in paths:
            role = role_of(path.removesuffix(f".{PACKED}") if isinstance(cell, PackedWeight) else path, sites)
            if whole and (role == "vocabulary" or path == sites.head):
                role = None
            self.roles[id(cell)] = role
            for parameter in cell.get_parameters(expand=False):
                self.shapes.setdefault(id(parameter), self.shard(cell, role, tuple(parameter.shape)))
            inside = role == "wide" or fits(sites.cores, path)
            block = fits(sites.blocks, path)
            if (rank.recompute == "full" and block) or (rank.recompute == "select" and inside):
                self.again.add(id(cell))

    def shard(self, cell: Cell, role: str | None, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a cell's parameter on a rank of the tensor-parallel group."""
        if self.layout.tp == 1 or role not in ("column", "row", "vocabulary"):
            return shape
        if isinstance(cell, PackedWeight):
            # A scale of a whole row is on every rank that holds a part of it.
            whole = role == "row" and shape[0] == cell.layout.shape[0]
            return shape if whole else (-(-shape[0] // self.layout.tp),)
        if hasattr(cell, "experts"):
            return (shape[0] // self.layout.tp, *shape[1:])
        width = {"column": "out_channels", "row": "in_channels"}.get(role, "")
        cut = shape[0] if role == "vocabulary" else getattr(cell, width, None)
        axes = [axis for axis, size in enumerate(shape) if size == cut]
        if not axes or (role == "row" and len(shape) == 1):
            return shape
        # Of a square matrix (out, in): the outputs of a column layer, the inputs of a row layer.
        axis = axes[-1] if role == "row" else axes[0]
        return (*shape[:axis], shape[axis] // self.layout.tp, *shape[axis + 1 :])

    def run(self, cell: Cell, *values: Any) -> Any:
        """Follow a cell. Raises UnknownCellError for one that no table names."""
        follow = self.cells.get(type(cell))
        if follow is None:
            raise UnknownCellError(type(cell).__name__)
        with self.tape.computed_again(id(cell) in self.again):
            return follow(self, cell, *values)

    def record(self, inputs: Sequence[Value], shape: tuple[int, ...], item_bytes: int, **more: Any) -> Value:
        return self.tape.record(inputs, shape, item_bytes, **more)

    def fused(self, x: Value) -> bool:
        """Return whether a C++ operator computes it."""
        return self.rank.fused and x.item_bytes == 4

    def cast(self, x: Value, item_bytes: int) -> Value:
        return x if x.item_bytes == item_bytes else self.record([x], x.shape, item_bytes)

    def add(self, x: Value, y: Value) -> Value:
        return self.record([x, y], x.shape, x.item_bytes, passes=True)

    def parameter(self, parameter: Parameter, item_bytes: int | None = None) -> Value:
        """Return a parameter; where it trains in another type than `item_bytes`, its copy, which MindSpore makes before all else."""
        shape, stored, trains = self.shapes[id(parameter)], stored_bytes(parameter), bool(parameter.requires_grad)
        copied = trains and item_bytes not in (None, stored)
        found = self.values.get((id(parameter), copied))
        if found is None:
            shape = self.split_state(shape)
            found = Value(
                shape=shape,
                item_bytes=item_bytes if copied and item_bytes else stored,
                needs_gradient=trains,
                part="weights",
                is_parameter=True,
                gradient_bytes=4 * _count(shape),
                counted_elsewhere=not copied,
                owner=id(parameter),
            )
            self.values[id(parameter), copied] = found
        return found

    def split_state(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the share of a parameter that a rank holds where the data-parallel ranks split it."""
        if not self.layout.zero or not shape or shape[0] % self.layout.dp:
            return shape
        return (shape[0] // self.layout.dp, *shape[1:])

    def gathered(self, weight: Value) -> Value:
        """Return a weight that the data-parallel ranks split, as one."""
        if not self.layout.zero:
            return weight
        if weight not in self.gathers:
            shape = (weight.shape[0] * self.layout.dp, *weight.shape[1:])
            self.gathers[weight] = self.record([weight], shape, weight.item_bytes, part="weights")
        return self.gathers[weight]

    def product(self, x: Value, parameter: Parameter, cell: Cell | None = None, width: int = 0) -> Value:
        """x W^T: of a layer, whose role says what of it a rank computes, or to `width` features."""
        weight = self.gathered(self.parameter(parameter, x.item_bytes))
        keeps = [x] if weight.needs_gradient else []
        again = 0
        if x.needs_gradient and not weight.counted_elsewhere:
            keeps += [weight] if self.layout.zero < 3 else []
            again = weight.bytes if self.layout.zero == 3 else 0
        if not self.ascend:
            self.packed_bytes = max(self.packed_bytes, x.bytes + weight.bytes)
        role = self.roles.get(id(cell))
        if cell is not None:
            width = cell.out_channels // (self.layout.tp if role == "column" else 1)
        y = self.record([x, weight], (*x.shape[:-1], width), x.item_bytes, keeps=keeps, work=(0, again))
        return self.summed(y) if cell is not None and role == "row" else y

    def packed_product(self, x: Value, packed: PackedWeight, cell: Cell) -> Value:
        """x W^T with W in codes. The CPU's operator holds a tile of W; else W is made in the compute type, and again for the backward
        pass."""
        layout, role = packed.layout, self.roles.get(id(cell))
        share = self.layout.tp if role in ("column", "row") else 1
        work = 4 * layout.blocks // share if layout.nested_block else 0
        if not self.fused(x):
            work += (4 + x.item_bytes) * prod(layout.shape) // share
        width = cell.out_channels // (self.layout.tp if role == "column" else 1)
        # Where operators are split, MindSpore's own gradient keeps W.
        split = self.layout.split and not self.fused(x)
        keeps = [Value(shape=(prod(layout.shape) // share,), item_bytes=x.item_bytes)] if split else []
        y = self.record([x], (*x.shape[:-1], width), x.item_bytes, keeps=keeps, work=(work, work))
        return self.summed(y) if role == "row" else y

    def summed(self, y: Value) -> Value:
        """Sum over the tensor-parallel ranks; where tokens are split, each keeps its own."""
        if self.layout.tp == 1:
            return y
        rows, tokens, *rest = y.shape
        shape = (rows, tokens // self.layout.tp, *rest) if self.layout.sequence else y.shape
        return self.record([y], shape, y.item_bytes)

    def all_tokens(self, cell: Cell, x: Value) -> Value:
        """Return the tokens of all ranks, which a layer that shards its outputs reads."""
        if not self.layout.sequence or self.roles.get(id(cell)) != "column":
            return x
        if x not in self.gathers:
            shape = (x.shape[0], x.shape[1] * self.layout.tp, *x.shape[2:])
            self.gathers[x] = self.record([x], shape, x.item_bytes)
        return self.gathers[x]

    def plus_bias(self, y: Value, bias: Parameter) -> Value:
        return self.record([y, self.parameter(bias, y.item_bytes)], y.shape, y.item_bytes, passes=True)

    def broadcasts(self, shape: Sequence[int], times: int = 1, inputs: int = 2) -> None:
        """Count the index tables of operators that bring inputs to one shape, `times` of them."""
        if not self.ascend:
            self.index_bytes += 8 * inputs * times * _count(shape)

    def mask(self, shape: tuple[int, ...], item_bytes: int, *, packed: bool = False) -> Value:
        """Return a mask of dropout, which MindSpore draws before all else: as numbers to multiply by, or `packed` into bits."""
        self.mask_bytes.append(4 * _count(shape))
        if packed:
            return Value(shape=(-(-_count(shape) // 8),), item_bytes=1)
        return Value(shape=shape, item_bytes=item_bytes)

    def hidden(self, mask: Value) -> Value:
        """Return the inverse of a mask of attention, which all layers share."""
        if mask not in self.gathers:
            self.gathers[mask] = Value(shape=mask.shape, item_bytes=1)
        return self.gathers[mask]

    def without_gradient_bytes(self, x: Value) -> Value:
        """Return what stands for x where its gradient is counted already."""
        return Value(shape=(0,), item_bytes=x.item_bytes, needs_gradient=x.needs_gradient)

    def layers(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the layers of this rank's stage."""
        each = len(cells) // self.layout.pp
        return list(cells)[self.rank.stage * each : (self.rank.stage + 1) * each]

    @property
    def is_first(self) -> bool:
        return self.rank.stage == 0

    @property
    def is_last(self) -> bool:
        return self.rank.stage == self.layout.pp - 1


def stored_bytes(parameter: Parameter) -> int:
    """Return the bytes of a parameter's value: one that trains becomes float32 (graph.freeze)."""
    return 4 if parameter.requires_grad else int(parameter.itemsize)


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
