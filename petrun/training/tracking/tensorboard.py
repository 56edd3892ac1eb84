"""TensorBoard: event files in RUN/tensorboard, written by tensorboardX. Show them with: tensorboard --logdir RUN/tensorboard."""

from __future__ import annotations

import json
from collections.abc import Mapping

from petrun.training.tracking.tracker import TrackedRun, Tracker, TrackerKind


class _TensorBoard:
    def __init__(self, run: TrackedRun) -> None:
        from tensorboardX import SummaryWriter

        # What an earlier process logged after its last state is hidden.
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.first_step or None)
        self._writer.add_text("settings", f"    {json.dumps(dict(run.settings), ensure_ascii=False)}")

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def _open(run: TrackedRun) -> Tracker:
    return _TensorBoard(run)


TENSORBOARD = TrackerKind(package="tensorboardX", extra="tensorboard", open=_open)
