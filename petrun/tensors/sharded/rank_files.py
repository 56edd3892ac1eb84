"""Write a job's tensors into the files of its ranks: each rank writes its own shards, and the first one completes the folder.

    PATH/rank_N/NAME.ckpt        the shards of rank N
    PATH/strategy/stage_S.ckpt   how pipeline stage S shards its parameters, frozen ones too
    PATH/petrun_shards.json      the note, with the digest of each file: written last, so that it marks the folder as complete

The folder is written under a hidden name beside PATH, on a disk that all ranks share, and renamed when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from petrun.errors import OutputError, WeightsError
from petrun.tensors.atomic import atomic_file, output_error
from petrun.tensors.digest import content_digest
from petrun.tensors.dtypes import Array, dtype_of
from petrun.tensors.sharded.checkpoint import ShardedReader, open_sharded
from petrun.tensors.sharded.layout import TensorLayout
from petrun.tensors.sharded.note import NOTE, Note, write_note
from petrun.tensors.sharded.strategy_file import write_items
from petrun.tensors.writers import array_entries, write_ckpt, write_safetensors

STRATEGY = "strategy"
"""Folder of the strategy files beside the ranks'."""
PATIENCE_SECONDS = 10.0
"""Time to wait for a file of another host, which may appear later where the disk is shared over a network."""


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """The sharding of the tensors that one rank of a job holds."""

    rank: int
    ranks: int
    """The number of ranks of the job."""
    stages: int
    layouts: Mapping[str, TensorLayout] = field(repr=False)
    """The layouts of all parameters of the rank's pipeline stage, frozen ones and the optimizer's state included."""
    fail_together: Callable[[], AbstractContextManager[None]] = field(repr=False)
    """A context manager that fails on all ranks where it fails on one (World.fail_together)."""

    @property
    def devices(self) -> int:
        """Ranks of a stage."""
        return self.ranks // self.stages

    def shard(self, name: str, full: Array) -> Array:
        """Return the shard of a full tensor that this rank holds."""
        layout = self.layouts[name]
        return full[layout.slices(self.rank % self.devices, layout.shard_shape(full.shape))]


def save_shards(
    path: Path,
    file: str,
    shards: Mapping[str, Array],
    spec: ShardSpec,
    describe: Callable[[ShardedReader], Mapping[str, str]],
) -> None:
    """Write this rank's shards into `path`/rank_N/`file`; every rank must call it. A folder at `path` is replaced when all is written.

    file: its ending, .ckpt or .safetensors, is the format. describe(reader of the full tensors): the metadata for the note.
    Raises OutputError, WeightsError for a shard that contradicts its layout; SetupError where another rank failed.
    """
    growing = path.with_name(f".{path.name}.part")
    with spec.fail_together():
        _write_own(growing, file, shards, spec)
    with spec.fail_together():
        if spec.rank == 0:
            _finish(growing, path, file, spec, describe)


def own_strategy(path: Path) -> Path | None:
    """Return the strategy in a folder that ranks have written, which needs no other; None for any other path."""
    return path / STRATEGY if (path / NOTE).is_file() and (path / STRATEGY).is_dir() else None


def _write_own(growing: Path, file: str, shards: Mapping[str, Array], spec: ShardSpec) -> None:
    folder = growing / f"rank_{spec.rank}"
    unlisted = next((name for name in shards if name not in spec.layouts), None)
    if unlisted is not None:
        raise WeightsError(f"{folder / file}: the job's strategy says nothing of {unlisted}")
    if not shards:
        raise OutputError(f"{folder / file}: rank {spec.rank} holds none of what is to be saved")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if spec.rank % spec.devices == 0:
            (growing / STRATEGY).mkdir(exist_ok=True)
            stage = spec.rank // spec.devices
            write_items(growing / STRATEGY / f"stage_{stage}.ckpt", spec.layouts, [stage])
    except OSError as error:
        raise output_error(folder, error) from error
    write = write_ckpt if file.endswith(".ckpt") else write_safetensors
    digests = write(folder / file, array_entries(shards))
    digest = content_digest((name, dtype_of(a), a.shape, digests[name]) for name, a in shards.items())
    with atomic_file(_mark(growing, spec.rank)) as (stream, _):
        stream.write(json.dumps({"digest": digest}).encode())


def _mark(growing: Path, rank: int) -> Path:
    return growing / f"rank_{rank}.json"


def _finish(
    growing: Path, path: Path, file: str, spec: ShardSpec, describe: Callable[[ShardedReader], Mapping[str, str]]
) -> None:
    """Complete the folder after all ranks have written: check that their files are here, write the note, and give it its name."""
    marks = [_mark(growing, rank) for rank in range(spec.ranks)]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (missing := next((rank for rank, mark in enumerate(marks) if not mark.is_file()), None)) is not None:
        if time.monotonic() < deadline:
            time.sleep(0.2)
            continue
        raise OutputError(
            f"{growing}: what rank {missing} has written is not to be seen from rank 0",
            hint="All ranks of such a job write into one folder: --out must lie on a disk that the hosts share.",
        )
    try:
        digests = tuple(json.loads(mark.read_bytes())["digest"] for mark in marks)
        _sweep(growing, spec)
        files = tuple(f"rank_{rank}/{file}" for rank in range(spec.ranks))
        metadata = describe(open_sharded(growing, growing / STRATEGY))
        for mark in marks:
            mark.unlink()
        write_note(growing, Note(files=files, digests=digests, metadata=metadata))
        _replace(growing, path)
    except OSError as error:
        raise output_error(path, error) from error


def _sweep(growing: Path, spec: ShardSpec) -> None:
    """Remove the files of an earlier attempt with more ranks that was killed while it saved."""
    known = {*(f"rank_{rank}" for rank in range(spec.ranks)), *(f"rank_{rank}.json" for rank in range(spec.ranks))}
    stages = {f"stage_{stage}.ckpt" for stage in range(spec.stages)}
    for entry in growing.iterdir():
        if entry.name.startswith("rank_") and entry.name not in known:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for entry in (growing / STRATEGY).iterdir():
        if entry.name not in stages:
            entry.unlink()


def _replace(growing: Path, path: Path) -> None:
    """Rename `growing` to `path`, and replace what was there."""
    old = path.with_name(f".{path.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if path.exists():
        os.rename(path, old)
    os.rename(growing, path)
    if old.exists():
        shutil.rmtree(old)
