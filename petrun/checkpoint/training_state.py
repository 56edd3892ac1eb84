"""Write and find training states: all that a run needs to resume bit-exact, in RUN/state.

    step-00000120.safetensors   parameters, optimizer and counters; scores and settings of the run as JSON in the metadata
    step-00000120.json          the completion mark: size and SHA-256 of the file beside it, written when that is on the disk

A state without a mark is incomplete, because its run ended while it was written; one that differs from its mark was damaged later.
Neither is ever loaded: the newest complete one is.

Where the ranks of a job hold shards, step-00000120 is a folder with their files instead (petrun/tensors/sharded/rank_files.py); its note
is the mark.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from petrun import console
from petrun.errors import OutputError, TrainingError, WeightsError
from petrun.tensors import (
    Array,
    TensorReader,
    array_entries,
    atomic_file,
    open_tensors,
    tensor_digest,
    write_safetensors,
)
from petrun.tensors.atomic import output_error
from petrun.tensors.sharded.checkpoint import open_sharded
from petrun.tensors.sharded.rank_files import ShardSpec, own_strategy, save_shards
from petrun.typing import JsonObject

FORMAT = 1
"""Raised when a reader of the older format would misunderstand a state."""
_KEY = "petrun_state"
_NAME = re.compile(r"step-(\d+)(\.(safetensors|json))?")
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class State:
    """A complete state, its tensors still in the file."""

    path: Path
    step: int
    identity: JsonObject
    """The run's fingerprint: settings, and the content of data and base."""
    notes: JsonObject
    """Counters and scores of the run beside its tensors."""
    reader: TensorReader = field(repr=False)

    def read(self, name: str) -> Array:
        return self.reader.read(name)

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return name -> (shape, dtype)."""
        return {name: (self.reader.info(name).shape, self.reader.info(name).dtype) for name in self.reader.names}


@dataclass(frozen=True)
class Found:
    """The newest state of a folder that can be read."""

    state: State | None
    """The newest complete one."""
    torn: tuple[str, ...] = ()
    """Reasons why each newer one cannot be read."""


@console.working("saving the state")
def save_state(
    folder: Path,
    step: int,
    tensors: Mapping[str, Array],
    identity: JsonObject,
    notes: JsonObject,
    keep: int,
) -> Path:
    """Write a state, then its mark; then remove all complete states but the `keep` newest. Returns the state's path.

    Raises OutputError; earlier states still load then.
    """
    text = _describe(step, identity, notes)
    path, mark = _paths(folder, step)
    try:
        folder.mkdir(exist_ok=True)
        digests = write_safetensors(path, array_entries(tensors), {_KEY: text})
        content = {"bytes": path.stat().st_size, "sha256": _digest(path), "tensors": digests}
    except OSError as error:
        raise output_error(path, error) from error
    with atomic_file(mark) as (file, _):
        file.write(json.dumps(content).encode() + b"\n")
    _drop(folder, step, keep)
    return path


@console.working("saving the state")
def save_state_shards(
    folder: Path,
    step: int,
    shards: Mapping[str, Array],
    identity: JsonObject,
    notes: JsonObject,
    keep: int,
    spec: ShardSpec,
) -> Path:
    """Write this rank's part of a state; every rank must call it. Identity and notes are those of the first rank. Otherwise as
    `save_state`.
    """
    path = _shards_path(folder, step)
    text = _describe(step, identity, notes)
    save_shards(path, "state.safetensors", shards, spec, lambda reader: {_KEY: text})
    if spec.rank == 0:
        _drop(folder, step, keep)
    return path


def _describe(step: int, identity: JsonObject, notes: JsonObject) -> str:
    return json.dumps({"format": FORMAT, "step": step, "identity": dict(identity), "notes": dict(notes)})


def steps_of(folder: Path) -> list[int]:
    """Return the steps of which the folder holds a state, complete or not, newest first. Raises TrainingError for a folder that cannot be
    read.
    """
    try:
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be read: {error.strerror}") from error
    return sorted({int(match.group(1)) for match in map(_NAME.fullmatch, names) if match}, reverse=True)


def find_state(folder: Path, below: int | None = None) -> Found:
    """Find the newest complete state (of a step under `below`), and the faults of those that are newer.

    Raises TrainingError for a state of a newer petrun.
    """
    torn: list[str] = []
    for step in steps_of(folder):
        if below is not None and step >= below:
            continue
        try:
            return Found(read_state(folder, step), tuple(torn))
        except WeightsError as error:
            torn.append(error.message)
    return Found(None, tuple(torn))


def read_state(folder: Path, step: int) -> State:
    """Read a state and compare it with its mark. Raises WeightsError that names the damage; TrainingError for a state of a newer petrun."""
    if (shards := _shards_path(folder, step)).is_dir():
        return _read_shards(shards)
    path, mark = _paths(folder, step)
    if not mark.exists():
        raise WeightsError(f"{path}: was not finished: it has no completion mark")
    if not path.exists():
        raise WeightsError(f"{path}: is gone, its completion mark is left")
    try:
        content = json.loads(mark.read_bytes())
        size, expected, digests = content["bytes"], content["sha256"], dict(content["tensors"])
    except OSError as error:
        raise WeightsError(f"{mark}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError(f"{mark}: the completion mark is damaged") from error
    try:
        has = path.stat().st_size
        whole = has == size and _digest(path) == expected
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    if not whole:
        raise WeightsError(f"{path}: {_damage(path, has, size, digests)}")
    return _parse(path, open_tensors(path))


def _read_shards(path: Path) -> State:
    """Read the files of all ranks as one state. Raises WeightsError."""
    strategy = own_strategy(path)
    if strategy is None:
        raise WeightsError(f"{path}: was not finished: it has no completion mark")
    return _parse(path, open_sharded(path, strategy))


def clear(folder: Path) -> None:
    """Remove what interrupted writes have left: hidden files and folders. Best effort."""
    with suppress(OSError):
        for entry in (*folder.glob(".*.tmp"), *folder.glob(".*.part"), *folder.glob(".*.old")):
            _remove(entry)


def _remove(entry: Path) -> None:
    with suppress(OSError):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)


def _shards_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def _paths(folder: Path, step: int) -> tuple[Path, Path]:
    stem = f"step-{step:08d}"
    return folder / f"{stem}.safetensors", folder / f"{stem}.json"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _damage(path: Path, has: int, size: int, digests: Mapping[str, str]) -> str:
    """Tell how a file differs from the one that its completion mark describes."""
    if has != size:
        return f"is cut off: {has} of {size} bytes" if has < size else f"has grown: {has} bytes instead of {size}"
    try:
        reader = open_tensors(path)
        changed = [name for name in reader.names if digests.get(name) != tensor_digest(reader, name)]
    except WeightsError as error:
        return f"its header is damaged ({error.message.removeprefix(f'{path}: ')})"
    return f"tensor {changed[0]} is not what was written" if changed else "its header is not what was written"


def _parse(path: Path, reader: TensorReader) -> State:
    """Parse the description in the metadata, which the digest has verified."""
    content = json.loads(reader.metadata[_KEY])
    if content["format"] != FORMAT:
        raise TrainingError(
            f"{path}: is a state of format {content['format']}; this petrun reads format {FORMAT}",
            hint="Resume with the petrun that wrote it.",
        )
    return State(path=path, step=content["step"], identity=content["identity"], notes=content["notes"], reader=reader)


def _is_complete(folder: Path, step: int) -> bool:
    """Return whether the state was written completely."""
    return _paths(folder, step)[1].exists() or own_strategy(_shards_path(folder, step)) is not None


def _drop(folder: Path, newest: int, keep: int) -> None:
    """Remove states older than the `keep` newest up to `newest`, and all later ones: the run has resumed from before them.

    The mark is removed first, so that a half-removed state does not count. A file that cannot be removed costs space, nothing else.
    """
    with suppress(OSError, OutputError, TrainingError):
        known = steps_of(folder)
        kept = [step for step in known if step <= newest and _is_complete(folder, step)][: max(1, keep)]
        for step in known:
            if step not in kept:
                path, mark = _paths(folder, step)
                mark.unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                if (shards := _shards_path(folder, step)).exists():
                    # A renamed folder does not count as a state, even where its removal is interrupted.
                    gone = shards.with_name(f".{shards.name}.old")
                    shards.rename(gone)
                    _remove(gone)
