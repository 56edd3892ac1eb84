"""Weights & Biases: offline in RUN/wandb unless WANDB_MODE says otherwise. Send it later with: wandb sync RUN/wandb/offline-run-*."""

from __future__ import annotations

from collections.abc import Mapping

from petrun.config.load import environment
from petrun.training.tracking.tracker import TrackedRun, Tracker, TrackerKind


class _WandB:
    def __init__(self, run: TrackedRun) -> None:
        import wandb

        mode = environment("WANDB_MODE") or "offline"
        self._run = wandb.init(
            project=environment("WANDB_PROJECT") or "petrun",
            name=run.name,
            dir=str(run.folder),
            config=dict(run.settings),
            mode=mode,  # type: ignore[arg-type, unused-ignore]
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        # Steps and their evaluations have the same number; one call for each would be refused by `step=`.
        self._run.log({**values, "step": step})

    def close(self) -> None:
        self._run.finish()


def _open(run: TrackedRun) -> Tracker:
    return _WandB(run)


WANDB = TrackerKind(package="wandb", extra="wandb", open=_open)
