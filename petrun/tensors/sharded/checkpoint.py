"""Read the files of a job's ranks as the one checkpoint that they are shards of.

Everything is verified: every rank's file must exist and hold the parameters of its pipeline stage, in shards of the layouts' shapes;
devices that hold the same shard must hold the same bytes. Tensors are joined when they are read, one at a time, so that memory is bounded
by the largest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from petrun.errors import WeightsError
from petrun.tensors.dtypes import BY_NAME, Array
from petrun.tensors.known_names import DELTA_PREFIX, is_spare
from petrun.tensors.reader import TensorReader, open_tensors
from petrun.tensors.sharded.layout import TensorLayout
from petrun.tensors.sharded.note import check_note, read_note
from petrun.tensors.sharded.ranks import rank_files, root_of
from petrun.tensors.sharded.strategy import COMPLETE, Strategy, read_strategy, spell
from petrun.tensors.table import Table, TensorInfo

_CHUNK_BYTES = 8 << 20
_LISTED = 8


@dataclass(frozen=True)
class _Shards:
    """The ranks that hold the shards of a tensor."""

    info: TensorInfo
    """The type and shape of the full tensor."""
    stages: tuple[tuple[int, TensorLayout], ...]
    """The pipeline stages that hold it, each all of it, and how they shard it."""


class ShardedReader(TensorReader):
    """Reads full tensors from all ranks' files. `kind` is "ckpt": MindSpore's names and optimizer state, whatever the format."""

    def __init__(
        self,
        path: Path,
        strategy: Strategy,
        ranks: Sequence[TensorReader],
        tensors: dict[str, _Shards],
        metadata: Mapping[str, str],
    ) -> None:
        super().__init__(path, "ckpt", Table({}, dict(metadata)))
        self.strategy = strategy
        self.ranks = tuple(ranks)
        self.dropped: tuple[str, ...] = ()
        """Optimizer state that no layout describes."""
        self._full = self._listed = tensors
        self._proved: set[str] = set()

    def info(self, name: str) -> TensorInfo:
        return self._found(name).info

    def read_stored(self, name: str) -> Array:
        """Return a full tensor. Raises WeightsError as any reader does, and where devices that must hold the same shard do not."""
        found = self._found(name)
        values = self._assemble(name, *found.stages[0])
        if name not in self._proved:
            for stage, layout in found.stages[1:]:
                if not _same(self._assemble(name, stage, layout), values):
                    first = found.stages[0][0]
                    raise WeightsError(
                        f"{self.path}: pipeline stages {first} and {stage} share {name}, and theirs differ",
                        hint="The files are of different steps or jobs: use those of one checkpoint.",
                    )
            self._proved.add(name)
        return values

    def raw_chunks(self, name: str, chunk_bytes: int = _CHUNK_BYTES) -> Iterator[bytes]:
        values = self.read_stored(name)
        little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
        view = memoryview(little.reshape(-1).view(np.uint8).data)
        for start in range(0, len(view), chunk_bytes):
            yield bytes(view[start : start + chunk_bytes])

    def _found(self, name: str) -> _Shards:
        if name not in self._full:
            raise WeightsError(
                f"{self.path}: holds no tensor {name}", hint=f"{self.strategy.path} says how it is sharded."
            )
        return self._full[name]

    def _assemble(self, name: str, stage: int, layout: TensorLayout) -> Array:
        """Join one stage's shards; the first reading compares the replicas."""
        info = self._found(name).info
        element = BY_NAME[info.dtype].numpy
        if element is None:
            raise WeightsError(
                f"{self.path}: tensor {name} is {info.dtype}, which cannot be read",
                hint="Use a float32, float16 or bfloat16 copy of the model.",
            )
        values = np.empty(info.shape, np.dtype(element).newbyteorder("="))
        first = stage * self.strategy.stage_devices
        shape = layout.shard_shape(info.shape)
        for holders in layout.holders().values():
            shard = self.ranks[first + holders[0]].read_stored(name)
            if name not in self._proved:
                for other in holders[1:]:
                    if not _same(self.ranks[first + other].read_stored(name), shard):
                        raise self._differing(name, first, holders, layout)
            values[layout.slices(holders[0], shape)] = shard
        return values

    def _differing(self, name: str, first: int, holders: Sequence[int], layout: TensorLayout) -> WeightsError:
        """Return an error that names the ranks that differ; where a rank holds another shard, the files have been mixed up."""
        held = [self.ranks[first + device].read_raw(name) for device in range(layout.count)]
        contents = [held[device] for device in holders]
        usual = max(contents, key=contents.count)
        odd = [device for device in holders if held[device] != usual]
        said = f"ranks {_numbers(first + d for d in holders)} must hold the same shard of {name}, and "
        said += f"rank {_numbers(first + d for d in odd)} differs" if len(odd) < len(holders) - 1 else "they differ"
        others = [device for device in range(layout.count) if device not in holders]
        twins = [(device, other) for device in holders for other in others if held[other] == held[device]]
        if twins:
            said += f"; rank {first + twins[0][0]} holds what rank {first + twins[0][1]} holds"
            hint = "The files are in the wrong order: put every rank's file back in its folder."
        else:
            hint = f"The files are of different steps or jobs, or {self.strategy.path} is another job's: use those of one checkpoint."
        return WeightsError(f"{self.path}: {said}", hint=hint)


def _same(one: Array, other: Array) -> bool:
    """Compare bit by bit: a NaN equals itself, -0 is not 0."""
    return one.tobytes() == other.tobytes()


def _numbers(ranks: Iterator[int]) -> str:
    listed = list(ranks)
    return ", ".join(map(str, listed[:_LISTED])) + (", ..." if len(listed) > _LISTED else "")


def open_sharded(path: Path, strategy: Path | Strategy, spare: Sequence[str] = ()) -> ShardedReader:
    """Open the newest checkpoint of all ranks (see ranks.py) with the strategy it was saved under.

    spare: patterns of tensors that layouts need not list: the optimizer's state. Those with one number are kept; the others are left
    out, and named in `dropped`.
    Raises WeightsError for everything that contradicts the strategy, with the ranks and tensors at fault.
    """
    plan = strategy if isinstance(strategy, Strategy) else read_strategy(strategy)
    files = rank_files(path, plan.devices)
    readers = [open_tensors(file) for file in files]
    gathering = _ShardCollector(path, plan, readers, spare)
    tensors = gathering.shards()
    note = read_note(root_of(path))
    if note is not None:
        check_note(root_of(path), note, readers)
    reader = ShardedReader(path, plan, readers, tensors, note.metadata if note is not None else {})
    reader.dropped = tuple(gathering.dropped)
    return reader


class _ShardCollector:
    """Compares the ranks' tensors with the strategy."""

    def __init__(self, path: Path, plan: Strategy, readers: Sequence[TensorReader], spare: Sequence[str]) -> None:
        self.path = path
        self.plan = plan
        self.readers = readers
        self.spare = spare
        self.dropped: dict[str, None] = {}
        self.problems: list[str] = []

    def shards(self) -> dict[str, _Shards]:
        held = dict.fromkeys(name for reader in self.readers for name in reader.names)
        self._check_listed(
            [name for name in held if name not in self.plan and not is_spare(name, self.spare, held, self.plan)]
        )
        found = {name: shards for name in held if (shards := self._shard(name)) is not None}
        if self.problems:
            more = [f"... and {len(self.problems) - _LISTED} more"] if len(self.problems) > _LISTED else []
            raise WeightsError(
                "\n  ".join([f"{self.path}: does not fit {self.plan.path}:", *self.problems[:_LISTED], *more]),
                hint="Check that the files and the strategy are of the same job.",
            )
        if not found:
            raise WeightsError(f"{self.path}: its files hold no parameters", hint="Check the folder.")
        return found

    def _check_listed(self, unlisted: Sequence[str]) -> None:
        """Raise WeightsError for tensors without a layout: each may be a shard or the full tensor. MindSpore's tools take rank 0's
        for the full one.
        """
        if not unlisted:
            return
        hint = COMPLETE
        if any(DELTA_PREFIX in name for name in unlisted):
            hint = (
                "These are a delta's: give the strategy of its fine-tuning as --delta-strategy, not that of the base."
            )
        elif not any(name in self.plan for reader in self.readers for name in reader.names):
            hint = "The strategy is of another job, or of a delta: " + hint
        raise WeightsError(f"{self.plan.path}: says nothing of {spell(unlisted, 'tensors')} of {self.path}", hint=hint)

    def _shard(self, name: str) -> _Shards | None:
        """Return one tensor, or None where a problem was noted or it is left out."""
        holders = [rank for rank, reader in enumerate(self.readers) if name in reader]
        stages: tuple[tuple[int, TensorLayout], ...]
        if name in self.plan:
            stages = tuple((number, self.plan.stages[number][name]) for number in self.plan.stages_of(name))
        else:
            info = self.readers[holders[0]].info(name)
            if info.elements != 1:
                self.dropped[name] = None
                return None
            per_stage = self.plan.stage_devices
            stages = tuple(
                (number, TensorLayout.replicated(per_stage, len(info.shape)))
                for number in dict.fromkeys(rank // per_stage for rank in holders)
            )
        return self._fitted(name, stages, holders)

    def _fitted(self, name: str, stages: Sequence[tuple[int, TensorLayout]], holders: Sequence[int]) -> _Shards | None:
        owners = [rank for stage, _ in stages for rank in self._ranks(stage)]
        astray, lacking = sorted(set(holders) - set(owners)), sorted(set(owners) - set(holders))
        if astray:
            owner = ", ".join(str(stage) for stage, _ in stages)
            self.problems.append(f"rank {astray[0]} holds {name}, which is of pipeline stage {owner}")
        elif lacking:
            self.problems.append(f"rank {lacking[0]} lacks {name}, which rank {holders[0]} holds")
        else:
            infos = {self._full_info(name, stage, layout) for stage, layout in stages}
            full = next(iter(infos))
            if len(infos) == 1 and full is not None:
                return _Shards(full, tuple(stages))
            if None not in infos:
                said = " and ".join(f"{info.dtype} {list(info.shape)}" for info in infos if info is not None)
                self.problems.append(f"{name} is {said} on two pipeline stages")
        return None

    def _ranks(self, stage: int) -> range:
        return range(stage * self.plan.stage_devices, (stage + 1) * self.plan.stage_devices)

    def _full_info(self, name: str, stage: int, layout: TensorLayout) -> TensorInfo | None:
        """Return the type and shape of the full tensor of one stage's shards; None where a problem was noted."""
        infos = {self.readers[rank].info(name): rank for rank in reversed(self._ranks(stage))}
        info = next(iter(infos))
        if len(infos) > 1:
            said = " and ".join(f"{i.dtype} {list(i.shape)} on rank {rank}" for i, rank in list(infos.items())[-2:])
            self.problems.append(f"{name} is {said}: the shards of one tensor must be alike")
            return None
        if len(layout.axes) != len(info.shape):
            self.problems.append(_dimensions(name, layout, info))
            return None
        full = layout.full_shape(info.shape)
        if layout.shape is not None and full != layout.shape:
            self.problems.append(
                f"{name}: shards of {list(info.shape)} make {list(full)}, the strategy says {list(layout.shape)}"
            )
            return None
        return TensorInfo(full, info.dtype)


def _dimensions(name: str, layout: TensorLayout, info: TensorInfo) -> str:
    said = f"{name} has {len(info.shape)} dimensions, its tensor map {len(layout.axes)}"
    if layout.shape is not None and len(layout.axes) > len(info.shape):
        said += " (JSON cannot say that a dimension is sharded along two axes: save the strategy as .ckpt)"
    return said
