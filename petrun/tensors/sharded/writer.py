"""Shard full tensors into the files of a job's ranks, one in memory at a time; the files are read back and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np

from petrun.errors import OutputError, WeightsError
from petrun.tensors.atomic import atomic_folder
from petrun.tensors.digest import content_digest, tensor_digest
from petrun.tensors.dtypes import Array
from petrun.tensors.known_names import is_spare
from petrun.tensors.reader import TensorReader
from petrun.tensors.sharded.checkpoint import open_sharded
from petrun.tensors.sharded.layout import TensorLayout
from petrun.tensors.sharded.note import Note, write_note
from petrun.tensors.sharded.strategy import Strategy, require_complete
from petrun.tensors.table import TensorInfo
from petrun.tensors.writers import TensorEntry, write_ckpt, write_safetensors

_LISTED = 8


@dataclass(frozen=True)
class FullTensor:
    """A tensor to be sharded, and a function that returns its elements as stored (bfloat16: uint16)."""

    name: str
    info: TensorInfo
    load: Callable[[], Array]

    def raw(self) -> bytes:
        """Return its elements as stored: little-endian, in C order."""
        return _little(self.load())


def full_tensors(reader: TensorReader) -> list[FullTensor]:
    return [FullTensor(name, reader.info(name), partial(reader.read_stored, name)) for name in reader.names]


def write_sharded(
    out: Path,
    tensors: Sequence[FullTensor],
    strategy: Strategy,
    *,
    file: str = "model.ckpt",
    metadata: Mapping[str, str] | None = None,
    spare: Sequence[str] = (),
    beside: Callable[[Path], None] = lambda folder: None,
) -> str:
    """Write `out`/rank_N/`file` for every rank and the note beside them; the folder appears complete or not at all. Returns the digest of
    the full tensors.

    file: its ending, .ckpt or .safetensors, is the format. metadata: of the checkpoint, kept in the note. spare: patterns of tensors that
    need no layout where they are one number, as in `open_sharded`; every rank gets them. beside(folder): writes further files into it.
    Raises WeightsError: a tensor without a layout, or one that does not divide; OutputError.
    """
    require_complete(strategy, (each.name for each in tensors if not is_spare(each.name, spare, strategy)))
    _check_divides(tensors, strategy)
    with atomic_folder(out) as folder:
        names = tuple(f"rank_{rank}/{file}" for rank in range(strategy.devices))
        digests = tuple(_write_rank(folder / name, tensors, strategy, rank) for rank, name in enumerate(names))
        write_note(folder, Note(files=names, digests=digests, metadata=dict(metadata or {})))
        beside(folder)
        return _verify(out, folder, tensors, strategy, spare)


def _check_divides(tensors: Sequence[FullTensor], strategy: Strategy) -> None:
    problems = []
    for each in tensors:
        for stage in strategy.stages_of(each.name):
            try:
                strategy.stages[stage][each.name].shard_shape(each.info.shape)
            except ValueError as error:
                problems.append(f"{each.name} {list(each.info.shape)}: {error}")
    if problems:
        more = [f"... and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        raise WeightsError(
            "\n  ".join([f"{strategy.path}: does not fit these tensors:", *problems[:_LISTED], *more]),
            hint="Is it the strategy of a job with this model?",
        )


def _write_rank(path: Path, tensors: Sequence[FullTensor], strategy: Strategy, rank: int) -> str:
    """Write one rank's file. Returns the digest of its content."""
    path.parent.mkdir()
    device = rank % strategy.stage_devices
    entries = []
    for each in tensors:
        layout = strategy.of_rank(rank).get(each.name)
        if layout is None and each.name in strategy:
            continue
        layout = layout or TensorLayout.replicated(strategy.stage_devices, len(each.info.shape))
        entries.append(
            TensorEntry(
                each.name,
                layout.shard_shape(each.info.shape),
                each.info.dtype,
                partial(_shard_bytes, each, layout, device),
            )
        )
    if not entries:
        raise WeightsError(
            f"{strategy.path}: rank {rank} would get no tensor",
            hint="Is it the strategy of a job with this model? Its pipeline stage holds none of these tensors.",
        )
    digests = (write_ckpt if path.suffix == ".ckpt" else write_safetensors)(path, entries)
    return content_digest((entry.name, entry.dtype, entry.shape, digests[entry.name]) for entry in entries)


def _shard_bytes(tensor: FullTensor, layout: TensorLayout, device: int) -> bytes:
    values = tensor.load()
    return _little(values[layout.slices(device, layout.shard_shape(values.shape))])


def _little(values: Array) -> bytes:
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _verify(out: Path, folder: Path, tensors: Sequence[FullTensor], strategy: Strategy, spare: Sequence[str]) -> str:
    """Read the ranks' files as any reader does, and compare every tensor with its source."""
    reader = open_sharded(folder, strategy, spare)
    again = content_digest(_lines(reader))
    given = content_digest(
        (w.name, w.info.dtype, w.info.shape, sha256(_little(np.asarray(w.load()))).hexdigest()) for w in tensors
    )
    if again != given:
        raise OutputError(
            f"{out}: what was read back differs from what was sharded",
            hint="The disk or the memory is faulty: write to another disk.",
        )
    return given


def _lines(reader: TensorReader) -> Iterator[tuple[str, str, tuple[int, ...], str]]:
    for name in reader.names:
        yield name, reader.info(name).dtype, reader.info(name).shape, tensor_digest(reader, name)
