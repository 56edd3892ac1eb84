"""Define the run folder, with run.yaml, log.jsonl, state/, `<algo>.ckpt`, best.ckpt and results.json; choose and make it.

A finished run is changed only to make it longer.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from petrun.checkpoint.run_files import LOG, RESULTS, RUN_YAML, is_finished
from petrun.cluster.world import World
from petrun.config.schema import OutConfig
from petrun.errors import OutputError
from petrun.parallel.layout import Layout
from petrun.tensors.atomic import output_error
from petrun.tensors.output import PROBE, existing_parent, require_writable, write_text
from petrun.tensors.sharded.rank_files import own_strategy
from petrun.training.run_lock import LOCK, RunLock

STATES = "state"
SAVE_REQUEST = "save"
FINGERPRINT = "identity.json"
"""In STATES: the fingerprint of the run, see training/checkpointing/fingerprint.py."""
LOGS = "logs"
"""Folder with the output of each rank, where there are several. It does not make a run of its parent."""


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Names the files that a run writes. A file appears complete or not at all."""

    path: Path
    algo: str
    format: str
    new: bool = False
    """Whether it did not exist when it was chosen."""
    numbered: bool = False
    """Whether its name is the next free number, not the user's choice."""
    writes: bool = True
    """False: nothing is made or written."""
    sharded: bool = False
    """Whether the ranks hold shards: each writes its own, into folders instead of files."""

    @property
    def delta(self) -> Path:
        return self.path / self._named(self.algo.replace("+", "-"))

    @property
    def best(self) -> Path:
        return self.path / self._named("best")

    def _named(self, stem: str) -> str:
        return stem if self.sharded else f"{stem}.{self.format}"

    @property
    def delta_bytes(self) -> int:
        """Size of the final delta, in all ranks' files."""
        files = self.delta.glob(f"rank_*/*.{self.format}") if self.sharded else (self.delta,)
        return sum(file.stat().st_size for file in files)

    @property
    def log(self) -> Path:
        return self.path / LOG

    @property
    def states(self) -> Path:
        """Folder of training states, from which the run resumes."""
        return self.path / STATES

    @property
    def save_request(self) -> Path:
        """A file that the user makes to have a state saved now."""
        return self.path / SAVE_REQUEST

    @property
    def finished(self) -> bool:
        return is_finished(self.path)

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

    def write_results(self, results: Mapping[str, object]) -> None:
        """Write results.json, the last file: it marks the run as finished."""
        self.write_text(RESULTS, json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def next_free(algo: str, parent: Path = Path("runs")) -> Path:
    """Return runs/<algo>-N, with N one above the highest number in use."""
    name = algo.replace("+", "-")
    taken = [0]
    if parent.is_dir():
        for entry in parent.iterdir():
            match = re.fullmatch(rf"{re.escape(name)}-(\d+)", entry.name)
            if match:
                taken.append(int(match.group(1)))
    return parent / f"{name}-{max(taken) + 1}"


def rename_failed(path: Path) -> Path | None:
    """Rename a run folder that holds nothing but logs to `lora-1.failed`, so that it is not taken for a run. None where it holds more."""
    try:
        if {entry.name for entry in path.iterdir()} - {LOGS}:
            return None
        names = (f"{path.name}.failed", *(f"{path.name}.failed-{n}" for n in range(2, 10_000)))
        free = next(path.with_name(name) for name in names if not path.with_name(name).exists())
        path.rename(free)
        return free
    except (OSError, StopIteration):
        return None


def read_only(directory: str | None, algo: str, fmt: str) -> RunFolder:
    """Return the run folder of a rank that leaves writing to the first one."""
    return RunFolder(path=Path(directory or "runs").expanduser(), algo=algo, format=fmt, writes=False)


def choose(directory: str | None, algo: str, fmt: str, *, longer: bool = False) -> tuple[RunFolder, bool]:
    """Choose the run folder. Returns it, and whether it holds a run that resumes or starts over: an unfinished one, or with `longer` a
    finished one. Nothing is made yet: a run that fails before its first step leaves no folder behind.

    Raises OutputError for a finished run, an unfinished one with a saved delta, a folder with other files, or one that
    cannot be written.
    """
    path = Path(directory).expanduser() if directory else next_free(algo)
    try:
        resumes = _holds_run(path, longer)
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
        return RunFolder(path=path, algo=algo, format=fmt, new=not path.exists(), numbered=directory is None), resumes
    except OSError as error:
        raise OutputError(
            f"cannot write to --out {path}: {error.strerror}", hint="Give a folder that you may write."
        ) from error


def _holds_run(path: Path, longer: bool) -> bool:
    """Return whether `path` holds a run that did not finish, and that can resume or saved nothing; with `longer` also a finished run.

    Raises OutputError for anything but a run or an empty folder.
    """
    if not path.is_dir():
        if path.exists():
            raise OutputError(f"--out {path} is a file, not a folder", hint="Give a folder that does not exist yet.")
        return False
    # Another host of the same job writes such a file for a moment, to see whether it can.
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
    if saved and not (path / STATES / FINGERPRINT).exists():
        raise OutputError(
            f"--out {path} holds a run that did not finish, with a delta that it saved: {', '.join(saved)}",
            hint="Give another folder; to start over in this one, move what it saved away first.",
        )
    return bool(entries)


def choose_for_ranks(
    asked: OutConfig, algo: str, world: World, lock: RunLock, *, longer: bool
) -> tuple[RunFolder, bool]:
    """Choose the run folder on the first rank, which locks one that exists. Returns on every rank the same as `choose`.

    Every rank must call it. Raises OutputError.
    """
    with world.fail_together():
        if world.first:
            out, resumes = choose(asked.dir, algo, asked.format, longer=longer)
            if not out.new:
                lock.take(out.path)
                # Its content may have changed before it was locked.
                out, resumes = choose(str(out.path), algo, asked.format, longer=longer)
        else:
            out, resumes = read_only(asked.dir, algo, asked.format), False
    return out, world.of_first_rank(resumes)


def create_for_ranks(out: RunFolder, layout: Layout, world: World, lock: RunLock) -> RunFolder:
    """Make the run folder on the first rank, and lock it for that process. Every rank must call it. Raises OutputError."""
    with world.fail_together():
        out = out.create()
        if out.writes:
            lock.take(out.path)
    return replace(out, sharded=layout.split)
