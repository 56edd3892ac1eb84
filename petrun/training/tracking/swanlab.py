"""SwanLab: offline in RUN/swanlog unless SWANLAB_MODE says otherwise. Send it later with: swanlab sync RUN/swanlog/run-*."""

from __future__ import annotations

from collections.abc import Mapping

from petrun.config.load import environment
from petrun.training.tracking.tracker import TrackedRun, Tracker, TrackerKind


class _SwanLab:
    def __init__(self, run: TrackedRun) -> None:
        import swanlab

        self._swanlab = swanlab
        folder = run.folder / "swanlog"
        folder.mkdir(exist_ok=True)
        swanlab.init(
            project="petrun",
            experiment_name=run.name,
            config=dict(run.settings),
            logdir=str(folder),
            mode=environment("SWANLAB_MODE") or "offline",
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._swanlab.log(dict(values), step=step)

    def close(self) -> None:
        self._swanlab.finish()


def _open(run: TrackedRun) -> Tracker:
    return _SwanLab(run)


SWANLAB = TrackerKind(package="swanlab", extra="swanlab", open=_open)
