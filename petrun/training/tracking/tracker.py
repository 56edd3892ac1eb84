"""The one form in which a tracker gets a run, and the guard that keeps its failures away from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from petrun import console
from petrun.typing import JsonObject


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a tracker is told at the start."""

    name: str
    folder: Path
    """The run folder: what a tracker writes by itself goes into a folder below it."""
    settings: Mapping[str, object]
    """Dotted key -> value."""
    first_step: int = 0
    """Steps that an earlier process of the run has logged."""


class Tracker(Protocol):
    """A tracker that was opened."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take the figures of a step or of an evaluation."""

    def close(self) -> None:
        """Write what is left, and end."""


@dataclass(frozen=True, kw_only=True)
class TrackerKind:
    """A tracker that `--tracker` names."""

    package: str
    """The package that is imported."""
    extra: str
    """petrun's extra that brings it."""
    open: Callable[[TrackedRun], Tracker]


class GuardedTracker:
    """A tracker whose first failure is said once; from then on it gets nothing."""

    def __init__(self, name: str, kind: TrackerKind, run: TrackedRun) -> None:
        self._name = name
        self._tracker: Tracker | None = None
        with _Guard(self):
            self._tracker = kind.open(run)

    def note(self, record: Mapping[str, object]) -> None:
        """Give the tracker a record of the log."""
        if self._tracker is not None:
            with _Guard(self):
                self._tracker.log(figures_of(record), int(str(record["step"])))

    def close(self) -> None:
        if self._tracker is not None:
            with _Guard(self):
                self._tracker.close()
        self._tracker = None

    def give_up(self, error: Exception) -> None:
        self._tracker = None
        lines = str(error).strip().splitlines()
        console.print(
            f"tracker {self._name}: {type(error).__name__}: {lines[0] if lines else ''}; the run goes on without it"
        )


class _Guard:
    """Keeps any error of a tracker's library from the run: it may raise whatever it likes, so no list of types is enough."""

    def __init__(self, tracker: GuardedTracker) -> None:
        self._tracker = tracker

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> bool:
        if not isinstance(error, Exception):
            return False
        self._tracker.give_up(error)
        return True


def figures_of(record: Mapping[str, object]) -> dict[str, float]:
    """Return the numbers of a record by name: `train/loss`, `eval/accuracy`. Those that are not finite, null in the log, are left out."""
    evaluation = record.get("evaluation")
    if isinstance(evaluation, Mapping):
        found = {f"eval/{name}": value for name, value in evaluation.items()}
    else:
        found = {f"train/{name}": value for name, value in record.items() if name != "step"}
    return {
        name: float(value) for name, value in found.items() if isinstance(value, int | float) and value - value == 0
    }


def flat(settings: Mapping[str, JsonObject | object]) -> dict[str, object]:
    """Return sections of settings as dotted keys; those that are not set are left out."""
    found: dict[str, object] = {}
    for section, content in settings.items():
        for leaf, value in content.items() if isinstance(content, Mapping) else (("", content),):
            if value is not None:
                found[f"{section}.{leaf}" if leaf else section] = value
    return found
