"""Who gets the records of a run's log beside the log: the tracker of --tracker, and the function of a program."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import TypeAlias

from petrun.config.schema import RunConfig
from petrun.errors import SetupError
from petrun.training.run_folder import RunFolder
from petrun.training.tracking.mlflow import MLFLOW
from petrun.training.tracking.swanlab import SWANLAB
from petrun.training.tracking.tensorboard import TENSORBOARD
from petrun.training.tracking.tracker import GuardedTracker, TrackedRun, TrackerKind, flat
from petrun.training.tracking.wandb import WANDB

TRACKERS: dict[str, TrackerKind] = {"tensorboard": TENSORBOARD, "mlflow": MLFLOW, "swanlab": SWANLAB, "wandb": WANDB}
Callback: TypeAlias = Callable[[Mapping[str, object]], object]
"""Gets each record of the log, of steps and evaluations. A result that counts as true ends the run after its step."""


def require_tracker(config: RunConfig) -> None:
    """Raise SetupError, before anything is loaded, where the package of the tracker is not installed."""
    if config.train.tracker is None:
        return
    kind = TRACKERS[config.train.tracker]
    if importlib.util.find_spec(kind.package) is None:
        raise SetupError(
            f"--tracker {config.train.tracker}: {kind.package} is not installed",
            hint=f"pip install 'petrun[{kind.extra}]'",
        )


class Watchers:
    """The tracker and the callback of a run; on the ranks that do not write, neither."""

    def __init__(self, callback: Callback | None = None, tracker: GuardedTracker | None = None) -> None:
        self._callback = callback
        self._tracker = tracker

    @classmethod
    def of(cls, config: RunConfig, out: RunFolder, first_step: int, callback: Callback | None) -> Watchers:
        """Open the tracker that the run asks for."""
        name = config.train.tracker
        if not out.writes or name is None:
            return cls(callback if out.writes else None)
        settings = flat(config.model_dump(mode="json"))
        run = TrackedRun(name=out.path.resolve().name, folder=out.path, settings=settings, first_step=first_step)
        return cls(callback, GuardedTracker(name, TRACKERS[name], run))

    def note(self, record: Mapping[str, object]) -> bool:
        """Hand on a record. Returns whether the callback wants the run to end; what it raises ends the run."""
        if self._tracker is not None:
            self._tracker.note(record)
        return bool(self._callback(record)) if self._callback is not None else False

    def close(self) -> None:
        if self._tracker is not None:
            self._tracker.close()
