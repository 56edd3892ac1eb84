"""Find the newest checkpoint by the numbers in its name, never by the alphabet (step 10 is newer than step 9) or the clock."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from petrun.errors import PetrunError, WeightsError

_STEP = re.compile(r"(?P<series>.*?)(?:[-_.]?step[-_]?|-)(?P<numbers>\d+(?:_\d+)?)", re.IGNORECASE)


def series_and_step(name: str) -> tuple[str, tuple[int, ...]]:
    """Split a file's name without its ending into the name of its series and its step: `m-10_1` -> ("m", (10, 1)), epoch and step of
    MindSpore's ModelCheckpoint; `step_20` -> ("", (20,)); () where the name has no step.
    """
    found = _STEP.fullmatch(name)
    if found is None or found["series"].endswith("-of"):
        return name, ()
    return found["series"], tuple(int(number) for number in found["numbers"].split("_"))


def newest(
    files: Iterable[Path],
    *,
    path: Path,
    label: Callable[[Path], str] = lambda path: path.stem,
    error: type[PetrunError] = WeightsError,
    hint: str = "Name one of them.",
) -> Path:
    """Return the file of the highest step. `label`: path -> the part of its name that counts.

    Raises `error` where files are of several series, where only some have a step, or two have the same: the newest is not guessed.
    """
    steps = [(*series_and_step(label(file)), file) for file in sorted(files)]
    if len(steps) == 1:
        return steps[0][2]
    listed = ", ".join(file.name for _, _, file in steps[:8]) + (", ..." if len(steps) > 8 else "")
    sizes = {(series, len(step)) for series, step, _ in steps}
    if len(sizes) > 1 or not all(step for _, step, _ in steps):
        raise error(
            f"{path}: holds several checkpoints, and their names do not say which is the newest: {listed}", hint=hint
        )
    last = max(step for _, step, _ in steps)
    found = [file for _, step, file in steps if step == last]
    if len(found) > 1:
        raise error(f"{path}: {found[0].name} and {found[1].name} are of the same step", hint=hint)
    return found[0]
