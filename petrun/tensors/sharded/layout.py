"""The sharding of a tensor among the devices of one pipeline stage, in MindSpore's terms.

The devices form a matrix whose last axis is the fastest: in (2, 4), rank = 4 i + j. A tensor map says for each dimension of the
tensor which axes of that matrix shard it; devices that differ in no such axis hold the same shard. With the optimizer parallel as
well, those replicas shard dimension 0 of their shard once more, in groups of `opt_size` neighbouring replicas.
Source: mindspore/parallel/_tensor.py (2.10), and strategy files that the compiler of 2.10 writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

_MOST_DEVICES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class TensorLayout:
    devices: tuple[int, ...]
    """The device matrix of the stage (dev_matrix)."""
    axes: tuple[tuple[int, ...], ...]
    """The axes of `devices` that shard each dimension, counted from the right, the outermost first; () where it is not sharded."""
    opt_size: int = 0
    """The number of replicas that shard dimension 0 once more (opt_weight_shard_size): 0 none, -1 all of them."""
    opt_step: int = 0
    """Distance of two neighbours among those (opt_weight_shard_step); 0 where it is not stated."""
    shape: tuple[int, ...] | None = field(default=None, compare=False)
    """The full tensor's shape, where the file states it."""

    @classmethod
    def replicated(cls, devices: int, dimensions: int) -> TensorLayout:
        """Make the layout by which every device holds the full tensor."""
        return cls(devices=(devices,), axes=((),) * dimensions)

    @classmethod
    def of(cls, devices: Sequence[int], tensor_map: Sequence[int], *, opt_size: int = 0) -> TensorLayout:
        """Make a layout from MindSpore's own terms: in the tensor map -1 is a dimension that is not sharded. `opt_step` follows from the
        rest.
        """
        axes = tuple(() if axis < 0 else (axis,) for axis in tensor_map)
        layout = cls(devices=tuple(devices), axes=axes, opt_size=opt_size)
        if not opt_size or layout.problem():
            return layout
        first = layout.optimizer_group
        return cls(
            devices=layout.devices, axes=axes, opt_size=opt_size, opt_step=first[1] - first[0] if len(first) > 1 else 1
        )

    @property
    def count(self) -> int:
        """Devices of the stage."""
        return math.prod(self.devices)

    @property
    def splits(self) -> tuple[int, ...]:
        """The number of shards of each dimension."""
        return _sharding(self).splits

    @property
    def shards(self) -> tuple[tuple[int, ...], ...]:
        """The index of the shard in each dimension that each device of the stage holds, in the devices' order."""
        return _sharding(self).shards

    @property
    def optimizer_group(self) -> tuple[int, ...]:
        """The first replicas that share a shard under the optimizer parallel."""
        return _sharding(self).group

    def shard_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of every device's shard. Raises ValueError naming the dimension that does not divide."""
        if len(shape) != len(self.axes):
            raise ValueError(f"is sharded along {len(self.axes)} dimensions and has {len(shape)}")
        for dimension, (size, count) in enumerate(zip(shape, self.splits, strict=True)):
            if size % count:
                raise ValueError(f"its dimension {dimension}, {size}, does not divide by {count}")
        return tuple(size // count for size, count in zip(shape, self.splits, strict=True))

    def full_shape(self, shard: Sequence[int]) -> tuple[int, ...]:
        return tuple(size * count for size, count in zip(shard, self.splits, strict=True))

    def slices(self, device: int, shard_shape: Sequence[int]) -> tuple[slice, ...]:
        """Return the slices of the full tensor that a device's shard holds."""
        starts = (index * size for index, size in zip(self.shards[device], shard_shape, strict=True))
        return tuple(slice(start, start + size) for start, size in zip(starts, shard_shape, strict=True))

    def holders(self) -> dict[tuple[int, ...], list[int]]:
        """Return shard -> the devices that hold it."""
        found: dict[tuple[int, ...], list[int]] = {}
        for device, shard in enumerate(self.shards):
            found.setdefault(shard, []).append(device)
        return found

    def problem(self) -> str:
        """Return what is wrong with the layout by itself, or ''."""
        used = [axis for axes in self.axes for axis in axes]
        if self.count > _MOST_DEVICES:
            return f"its device matrix {list(self.devices)} is of more than {_MOST_DEVICES} devices"
        if any(size < 1 for size in self.devices):
            return f"its device matrix {list(self.devices)} has a size below 1"
        wrong = [axis for axis in used if not 0 <= axis < len(self.devices)]
        if wrong:
            return (
                f"its tensor map names axis {wrong[0]}, its device matrix {list(self.devices)} has {len(self.devices)}"
            )
        if len(set(used)) < len(used):
            return f"its tensor map {[list(axes) for axes in self.axes]} uses an axis twice"
        if self.opt_size:
            return self._optimizer_problem()
        return ""

    def _optimizer_problem(self) -> str:
        if not self.axes:
            return "the optimizer parallel shards a scalar"
        replicas = self.count // math.prod(self.devices[len(self.devices) - 1 - axis] for a in self.axes for axis in a)
        if self.opt_size < -1 or replicas % self.opt_size:
            return f"the optimizer parallel shards it among {self.opt_size} of {replicas} replicas"
        group = self.optimizer_group
        if self.opt_step > 0 and len(group) > 1 and group[1] - group[0] != self.opt_step:
            return f"opt_weight_shard_step is {self.opt_step}, its replicas are {group[1] - group[0]} apart"
        return ""


@dataclass(frozen=True)
class _Sharding:
    splits: tuple[int, ...]
    shards: tuple[tuple[int, ...], ...]
    group: tuple[int, ...]


@lru_cache(maxsize=512)
def _sharding(layout: TensorLayout) -> _Sharding:
    """Return the arithmetic of a layout, once for all parameters that share it."""
    sizes = [[layout.devices[len(layout.devices) - 1 - axis] for axis in axes] for axes in layout.axes]
    splits = [math.prod(each) for each in sizes]
    shards = [list(_shard(layout, coordinate)) for coordinate in _coordinates(layout.devices)]
    holders: dict[tuple[int, ...], list[int]] = {}
    for device, shard in enumerate(shards):
        holders.setdefault(tuple(shard), []).append(device)
    first = next(iter(holders.values()))
    size = len(first) if layout.opt_size < 0 else layout.opt_size
    if size:
        splits[0] *= size
        for replicas in holders.values():
            for position, device in enumerate(replicas):
                shards[device][0] = shards[device][0] * size + position % size
    return _Sharding(tuple(splits), tuple(map(tuple, shards)), tuple(first[:size]))


def _coordinates(devices: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the coordinates of every device in the matrix, in order of rank."""
    for rank in range(math.prod(devices)):
        rest, coordinate = rank, []
        for size in reversed(devices):
            rest, index = divmod(rest, size)
            coordinate.append(index)
        yield tuple(reversed(coordinate))


def _shard(layout: TensorLayout, coordinate: Sequence[int]) -> Iterator[int]:
    for axes in layout.axes:
        index = 0
        for axis in axes:
            position = len(layout.devices) - 1 - axis
            index = index * layout.devices[position] + coordinate[position]
        yield index
