"""Checks before a merge begins: the base is complete, and the disk has space."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from petrun.errors import OutputError, WeightsError, perhaps
from petrun.models.base import StoredName
from petrun.models.weights import Match
from petrun.tensors import TensorReader

_LISTED = 20


def check_base(base: TensorReader, matched: Match, names: Mapping[str, StoredName], brought: Iterable[str]) -> None:
    brought = set(brought)
    problems = list(matched.problems)
    problems += [
        f"{name} belongs to no parameter. {perhaps(name, (s.name for s in names.values()))}".rstrip()
        for name in matched.unknown
    ]
    for ours, stored in names.items():
        if ours in matched.found or ours in brought:
            continue
        where = "neither here nor in the delta" if stored.optional else "missing"
        problems.append(f"{stored.name} is {where}")
    if problems:
        more = [f"... and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        raise WeightsError(
            "\n  ".join([f"{base.path}: cannot be merged:", *problems[:_LISTED], *more]),
            hint="Check that config.json and the weights are of the same model.",
        )


def _spell(size: int) -> str:
    """Spell a number of bytes: 1234567 -> "1.2 MB"."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"


def check_room(out: Path, needed: int) -> None:
    """Raises OutputError where the disk has no space for the output, before hours of work."""
    path = next((p for p in out.absolute().parents if p.is_dir()), None)
    if path is None:
        return
    free = shutil.disk_usage(path).free
    if needed > free:
        raise OutputError(
            f"{out}: needs {_spell(needed)}, its disk has {_spell(free)} free",
            hint="Free some space, or choose a folder on another disk.",
        )
