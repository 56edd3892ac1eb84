"""Find the file of each rank: `rank_N/` folders, files named after their rank in one folder, or a path with {rank} in it.

load_distributed_checkpoint does not check the order of the files. Here it is read from the numbers in their names, must be complete, and
must not contradict itself: a file in rank_3 that says rank_1 is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from petrun.errors import WeightsError
from petrun.tensors.steps import newest, series_and_step
from petrun.tensors.table import unreadable

RANK = "{rank}"
"""Stands for the rank's number in a path: ckpts/rank_{rank}/m-9_1.ckpt."""
SUFFIXES = (".ckpt", ".safetensors")
_FOLDER = re.compile(r"rank_?(\d+)")
_IN_NAME = re.compile(r"(?<![A-Za-z])rank[-_]?(\d+)(?=$|[-_.])")
_LISTED = 12


def is_sharded(path: Path) -> bool:
    """Return whether a path holds files of several ranks: rank folders, files named after ranks, or {rank} in it."""
    if RANK in str(path):
        return True
    if not path.is_dir():
        return False
    try:
        entries = list(path.iterdir())
    except OSError as error:
        raise unreadable(path, error) from error
    files = [p for p in entries if p.suffix in SUFFIXES]
    if files:
        return all(_IN_NAME.search(p.stem) for p in files)
    return any(_FOLDER.fullmatch(p.name) and _checkpoints(p) for p in entries if p.is_dir())


def root_of(path: Path) -> Path:
    """Return the folder above the ranks' files, which holds config.json; any other path unchanged."""
    while RANK in str(path):
        path = path.parent
    return path


def rank_files(path: Path, devices: int) -> list[Path]:
    """Return the newest checkpoint of every rank, 0 to `devices` - 1, all of one step.

    Raises WeightsError: ranks that are missing, too many or there twice; a rank without a checkpoint, or with several that do not say
    which is the newest; ranks whose newest are of different steps; a file whose name says another rank than its folder.
    """
    try:
        files = _templated(path, devices) if RANK in str(path) else _found(path)
    except OSError as error:
        raise unreadable(path, error) from error
    _check_complete(path, sorted(files), devices)
    ordered = [files[rank] for rank in range(devices)]
    _check_same_step(path, ordered)
    if len({file.suffix for file in ordered}) > 1:
        raise WeightsError(
            f"{path}: some ranks have .ckpt files and others .safetensors",
            hint="Give the files of one format: --base 'ckpts/rank_{rank}/NAME.ckpt'.",
        )
    return ordered


def _templated(path: Path, devices: int) -> dict[int, Path]:
    files = {}
    for rank in range(devices):
        file = Path(str(path).replace(RANK, str(rank)))
        if file.is_dir():
            file = _newest_in(file, rank)
        elif not file.is_file():
            raise WeightsError(f"{file}: no such file", hint=f"The strategy is of {devices} ranks, 0 to {devices - 1}.")
        files[rank] = file
    # More ranks than the strategy has: the files are of another job.
    if Path(str(path).replace(RANK, str(devices))).exists():
        files[devices] = path
    return files


def _found(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        what = "is one file" if folder.exists() else "no such folder"
        raise WeightsError(
            f"{folder}: {what}, where a strategy asks for the files of every rank",
            hint="Give the folder that holds rank_0, rank_1, ..., or leave the strategy out for a whole file.",
        )
    folders: dict[int, Path] = {}
    for entry in sorted(folder.iterdir()):
        numbered = _FOLDER.fullmatch(entry.name)
        if entry.is_dir() and numbered:
            _put(folders, int(numbered[1]), entry)
    loose = [p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix in SUFFIXES]
    if folders:
        return {rank: _newest_in(entry, rank) for rank, entry in folders.items()}
    if not loose:
        raise WeightsError(
            f"{folder}: holds no rank_0, rank_1, ... and no checkpoints",
            hint="Give the folder that holds the ranks' folders, or the path of their files with {rank} in it.",
        )
    return _by_name(folder, loose)


def _put(ranks: dict[int, Path], rank: int, path: Path) -> None:
    if rank in ranks:
        raise WeightsError(f"{path.parent}: {ranks[rank].name} and {path.name} are both rank {rank}")
    ranks[rank] = path


def _by_name(folder: Path, files: Sequence[Path]) -> dict[int, Path]:
    """Find the files of all ranks in one folder by their names: net_rank_3-10_1.ckpt."""
    of_rank: dict[int, list[Path]] = {}
    for file in files:
        said = rank_in_name(file)
        if said is None:
            raise WeightsError(
                f"{folder}: {file.name} does not say of which rank it is",
                hint="Name the files rank_0.ckpt, rank_1.ckpt, ..., or give their path with {rank} in it: 'ckpts/net{rank}.ckpt'.",
            )
        of_rank.setdefault(said, []).append(file)
    return {rank: _newest(folder, each) for rank, each in of_rank.items()}


def _newest_in(folder: Path, rank: int) -> Path:
    files = _checkpoints(folder)
    if not files:
        raise WeightsError(f"{folder}: holds no .ckpt or .safetensors file", hint="The job did not save on every rank.")
    for file in files:
        said = rank_in_name(file)
        if said not in (None, rank):
            raise WeightsError(
                f"{file}: lies in the folder of rank {rank}, and its name says rank {said}",
                hint="Put every rank's file where it belongs: the order of the ranks is the order of the shards.",
            )
    return _newest(folder, files)


def _checkpoints(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.is_file() and p.suffix in SUFFIXES and not p.name.startswith(".")]


def _newest(path: Path, files: Sequence[Path]) -> Path:
    return newest(
        files,
        path=path,
        label=_without_rank,
        hint="Give the path of the one that is meant, with {rank} for the rank: 'ckpts/rank_{rank}/m-9_1.ckpt'.",
    )


def rank_in_name(file: Path) -> int | None:
    """Read the rank from a name: `llama_rank_3-10_1.ckpt` -> 3."""
    said = _IN_NAME.search(file.stem)
    return int(said[1]) if said else None


def _without_rank(file: Path) -> str:
    return _IN_NAME.sub("rank", file.stem)


def _check_complete(path: Path, ranks: Sequence[int], devices: int) -> None:
    missing = [rank for rank in range(devices) if rank not in ranks]
    beyond = [rank for rank in ranks if rank >= devices]
    if beyond:
        hint = (
            f"A pipeline of {len(ranks) // devices} stages has a strategy file each: give the folder that holds them, or the merged file."
            if not missing and len(ranks) % devices == 0 and RANK not in str(path)
            else "Is it the strategy of the job that saved these files?"
        )
        raise WeightsError(
            f"{path}: holds {len(ranks)} ranks, up to rank {beyond[-1]}; the strategy is of {devices}", hint=hint
        )
    if missing:
        listed = ", ".join(map(str, missing[:_LISTED])) + (", ..." if len(missing) > _LISTED else "")
        raise WeightsError(
            f"{path}: lacks rank {listed}; the strategy is of {devices} ranks, 0 to {devices - 1}",
            hint="Bring the files of all ranks together in one folder.",
        )


def _check_same_step(path: Path, files: Sequence[Path]) -> None:
    steps: dict[tuple[int, ...], list[int]] = {}
    for rank, file in enumerate(files):
        steps.setdefault(series_and_step(_without_rank(file))[1], []).append(rank)
    if len(steps) > 1:
        latest, first = max(steps), min(steps)
        raise WeightsError(
            f"{path}: the newest checkpoint of rank {steps[latest][0]} is {files[steps[latest][0]].name}, "
            f"that of rank {steps[first][0]} is {files[steps[first][0]].name}",
            hint="The job ended while it saved. Give the step that all ranks have: 'ckpts/rank_{rank}/NAME-9_1.ckpt'.",
        )
