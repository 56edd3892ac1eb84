"""The run folder: run.yaml, log.jsonl, state/, `<algo>.ckpt`, best.ckpt, results.json. A finished one is only touched to be made longer."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from petrun.checkpoint.run_files import LOG, RESULTS, RUN_YAML
from petrun.errors import OutputError
from petrun.tensors.atomic import output_error
from petrun.tensors.output import PROBE, existing_parent, require_writable, write_text
from petrun.tensors.sharded.rank_files import own_strategy
from petrun.training.run_lock import LOCK

STATES = "state"
SAVE_WISH = "save"
IDENTITY = "identity.json"
LOGS = "logs"
"""Folder with the output of each rank, where there are several. It does not make a run of its parent."""


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Where a run writes. Files appear whole or not at all."""

    path: Path
    algo: str
    format: str
    new: bool = False
    """It did not exist when it was chosen."""
    numbered: bool = False
    """Its name is the next free number, not the user's choice."""
    writes: bool = True
    """False: nothing is made or written."""
    cut: bool = False
    """The ranks hold slices: each writes its own, into folders that stand where files would."""

    @property
    def delta(self) -> Path:
        return self.path / self._named(self.algo.replace("+", "-"))

    @property
    def best(self) -> Path:
        return self.path / self._named("best")

    def _named(self, stem: str) -> str:
        return stem if self.cut else f"{stem}.{self.format}"

    @property
    def delta_bytes(self) -> int:
        """Of the final delta, in all ranks' files."""
        files = self.delta.glob(f"rank_*/*.{self.format}") if self.cut else (self.delta,)
        return sum(file.stat().st_size for file in files)

    @property
    def log(self) -> Path:
        return self.path / LOG

    @property
    def states(self) -> Path:
        """Training states, from which the run goes on."""
        return self.path / STATES

    @property
    def save_wish(self) -> Path:
        """A file of this name asks for a state now."""
        return self.path / SAVE_WISH

    @property
    def finished(self) -> bool:
        return (self.path / RESULTS).exists()

    def create(self) -> RunFolder:
        """Make the folder; where another run took the number meanwhile, the next one. Raises OutputError."""
        if not self.writes:
            return self
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(exist_ok=not self.new)
            return self
        except FileExistsError as error:
            if self.numbered:
                return replace(self, path=next_free(self.algo)).create()
            raise OutputError(
                f"--out {self.path}: another run has made it meanwhile", hint="Give each run a folder of its own."
            ) from error
        except OSError as error:
            raise output_error(self.path, error) from error

    def write_text(self, name: str, text: str) -> None:
        """Write a small file. Raises OutputError naming it."""
        if self.writes:
            write_text(self.path / name, text)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """results.json: written last, so that it marks the run as finished."""
        self.write_text(RESULTS, json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def next_free(algo: str, parent: Path = Path("runs")) -> Path:
    """runs/<algo>-N with N one above the highest taken number."""
    name = algo.replace("+", "-")
    taken = [0]
    if parent.is_dir():
        for entry in parent.iterdir():
            match = re.fullmatch(rf"{re.escape(name)}-(\d+)", entry.name)
            if match:
                taken.append(int(match.group(1)))
    return parent / f"{name}-{max(taken) + 1}"


def set_aside(path: Path) -> Path | None:
    """Rename a run folder that holds nothing but logs to `lora-1.failed`, where it is not taken for a run. None where it holds more."""
    try:
        if {entry.name for entry in path.iterdir()} - {LOGS}:
            return None
        names = (f"{path.name}.failed", *(f"{path.name}.failed-{n}" for n in range(2, 10_000)))
        free = next(path.with_name(name) for name in names if not path.with_name(name).exists())
        path.rename(free)
        return free
    except (OSError, StopIteration):
        return None


def unwritten(directory: str | None, algo: str, fmt: str) -> RunFolder:
    """The run folder as seen by a rank that leaves it to the first one, and does not know what it holds."""
    return RunFolder(path=Path(directory or "runs").expanduser(), algo=algo, format=fmt, writes=False)


def prepare(directory: str | None, algo: str, fmt: str, *, longer: bool = False) -> tuple[RunFolder, bool]:
    """Choose the run folder. Returns it, and whether it holds a run that goes on or starts over: an unfinished one, or with `longer` a
    finished one. Nothing is made yet: a run that fails before its first step leaves no folder behind.

    Raises OutputError for a finished run, an unfinished one with a saved delta, a folder with files of somebody else's, or one that
    cannot be written.
    """
    path = Path(directory).expanduser() if directory else next_free(algo)
    try:
        goes_on = _look(path, longer)
        for place in (path, *path.absolute().parents):
            if place.is_symlink() and not place.exists():
                raise OutputError(
                    f"cannot write to --out {path}: {place} is a link to {os.readlink(place)}, which does not exist",
                    hint="Make that folder, remove the link, or give another folder.",
                )
        existing = existing_parent(path)
        if not existing.is_dir():
            raise OutputError(
                f"cannot write to --out {path}: {existing} is a file", hint="Give a folder that you may write."
            )
        require_writable(existing)
        return RunFolder(path=path, algo=algo, format=fmt, new=not path.exists(), numbered=directory is None), goes_on
    except OSError as error:
        raise OutputError(
            f"cannot write to --out {path}: {error.strerror}", hint="Give a folder that you may write."
        ) from error


def _look(path: Path, longer: bool) -> bool:
    """Whether `path` holds a run that did not finish, and can go on or saved nothing. Raises OutputError for anything else but an
    empty folder; `longer`: a finished run goes on as well.
    """
    if not path.is_dir():
        if path.exists():
            raise OutputError(f"--out {path} is a file, not a folder", hint="Give a folder that does not exist yet.")
        return False
    # What another host of the same job writes to see whether it can is gone in a moment.
    entries = sorted(p.name for p in path.iterdir() if p.name not in (LOGS, LOCK) and not p.name.startswith(PROBE))
    if RESULTS in entries and longer:
        return True
    if RESULTS in entries:
        raise OutputError(
            f"--out {path} holds a finished run",
            hint="Give another folder, or leave --out out for the next free number.",
        )
    if entries and RUN_YAML not in entries:
        raise OutputError(
            f"--out {path} is not empty and holds no petrun run",
            hint="Give a new or empty folder; nothing was touched.",
        )
    saved = [name for name in entries if name.endswith((".ckpt", ".safetensors")) or own_strategy(path / name)]
    if saved and not (path / STATES / IDENTITY).exists():
        raise OutputError(
            f"--out {path} holds a run that did not finish, with a delta that it saved: {', '.join(saved)}",
            hint="Give another folder; to start over in this one, move what it saved away first.",
        )
    return bool(entries)
