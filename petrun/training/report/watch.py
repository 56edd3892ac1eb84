"""Show a run at work as text, from run.yaml and the log: progress, losses as a small curve, rates, evaluations, the time left."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

from petrun.checkpoint.run_files import LOG, is_finished
from petrun.console import bytes_text, table
from petrun.training.report.page import number
from petrun.training.run_lock import LOCK, STALE_SECONDS, read_holder
from petrun.training.run_record import RunRecord, read_log, read_run

_BLOCKS = "▁▂▃▄▅▆▇█"
_CURVE = 48
_BAR = 32
_RECENT = 20
"""Steps over which speed is measured."""
_EVALUATIONS = 4
_DEFAULT_EPOCHS = 3.0


class RunView:
    """A run as its folder tells it now; `read_on` takes what the log got since."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        _, self._end = read_log(run.folder / LOG)

    def read_on(self) -> None:
        """Read the new lines of the log, and the results where the run has ended. Raises ConfigError."""
        place = self.run.folder / LOG
        size = place.stat().st_size if place.is_file() else 0
        if is_finished(self.run.folder) or size < self._end:
            # It ended, or a run that resumed removed what was logged after its last state.
            self.run = read_run(self.run.folder)
            _, self._end = read_log(place)
            return
        lines, self._end = read_log(place, self._end)
        found = [json.loads(line) for line in lines]
        self.run = replace(
            self.run,
            steps=(*self.run.steps, *(each for each in found if "loss" in each)),
            evaluations=(*self.run.evaluations, *(each for each in found if "evaluation" in each)),
        )

    @property
    def ended(self) -> bool:
        return self.run.finished

    @property
    def progress(self) -> float | None:
        """Share of the run that is done; None before its first step."""
        if not self.run.steps:
            return None
        last, settings = self.run.steps[-1], self.run.settings
        asked = settings.get("train.steps")
        if isinstance(asked, int):
            return min(1.0, last["step"] / asked)
        epochs = settings.get("train.epochs")
        return min(1.0, last["epoch"] / (float(epochs) if isinstance(epochs, int | float) else _DEFAULT_EPOCHS))

    @property
    def seconds_left(self) -> float | None:
        """Of the steps alone, at the speed of the last ones."""
        done, steps = self.progress, self.run.steps
        if not done or self.ended:
            return None
        recent = steps[-_RECENT:] if len(steps) > 1 else steps
        each = sum(step["seconds"] for step in recent) / len(recent)
        return each * steps[-1]["step"] * (1 - done) / done

    @property
    def state(self) -> str:
        """Whether the run works, has ended, or seems to have stopped."""
        if self.ended:
            return f"finished in {timedelta(seconds=round(self.run.results.get('seconds', 0)))}"
        holder = read_holder(self.run.folder / LOCK)
        if holder is None:
            return f"stopped; to resume: petrun resume {self.run.folder}"
        quiet = time.time() - (self.run.folder / LOCK).stat().st_mtime
        return (
            f"at work: {holder.text}"
            if quiet < STALE_SECONDS
            else f"gone: {holder.text} has not been heard of for {quiet:.0f} s"
        )

    def line(self) -> str:
        """Return the newest step in a line, for a log."""
        if not self.run.steps:
            return f"{self.run.name}: before the first step, {self.state}"
        last, left = self.run.steps[-1], self.seconds_left
        rest = f"{timedelta(seconds=round(left))} left" if left is not None else self.state
        evaluation = f"  {_figures(self.run.evaluations[-1]['evaluation'])}" if self.run.evaluations else ""
        return f"step {last['step']:,}  loss {number(last['loss'])}  lr {last['lr']:.2e}{evaluation}  {rest}"

    def text(self) -> str:
        """Return the view of several lines."""
        run, done = self.run, self.progress
        rows = [("run", f"{run.folder}, {run.algo} on {run.base or 'the embedded base'}"), ("state", self.state)]
        if run.steps and done is not None:
            last, left = run.steps[-1], self.seconds_left
            filled = round(done * _BAR)
            rest = f", {timedelta(seconds=round(left))} left" if left is not None else ""
            rows.append(
                (
                    "steps",
                    f"{'█' * filled}{'·' * (_BAR - filled)} {done:.0%}, step {last['step']:,}, epoch {last['epoch']:.3g}{rest}",
                )
            )
            losses = [loss for loss in run.losses if loss == loss]
            rows.append(
                ("loss", f"{curve(losses)} {number(losses[0])} to {number(losses[-1])}" if losses else "not finite")
            )
            rows.append(("rate", f"{last['lr']:.3g}, gradient norm {number(last['grad_norm'])}"))
            memory = f", {bytes_text(last['memory'])} at most" if last.get("memory") else ""
            rows.append(("speed", f"{last['tokens_per_second']:,.0f} tokens/s, {last['seconds']:.3g} s a step{memory}"))
        for n, each in enumerate(run.evaluations[-_EVALUATIONS:]):
            rows.append(("" if n else "scores", f"step {each['step']:,}: {_figures(each['evaluation'])}"))
        for failure in run.receipt.get("failures", ()):
            rows.append(("failed", failure))
        return table(rows)


def _figures(found: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in found.items())


def curve(values: list[float]) -> str:
    """Return a line of blocks, as high as the means of neighbouring values."""
    width = min(_CURVE, len(values))
    edges = [len(values) * n // width for n in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(_BLOCKS[round((mean - low) / span * (len(_BLOCKS) - 1))] for mean in means)
