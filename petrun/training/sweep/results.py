"""Keep what came out of the runs of a sweep: sweep.json, and a table with the best run first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from petrun.console import columns
from petrun.errors import ConfigError
from petrun.evaluate.compare import spell
from petrun.evaluate.metrics import Metric
from petrun.tensors.output import write_text
from petrun.training.run_record import read_run
from petrun.training.sweep.members import Axis, Member

FILE = "sweep.json"
FINISHED = "finished"
_TRAIN_LOSS = "train loss"


@dataclass(frozen=True, kw_only=True)
class MemberResult:
    """What came out of one run."""

    name: str
    outcome: str
    """`finished` (of a part of a run: as far as it was to go), or why it ended before."""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """Metric -> figure on the evaluation data after the last step."""
    train_loss: float | None = None
    """Of its last step, before the update."""
    seconds: float | None = None
    step: int | None = None
    """Where the scores are of an earlier step than the last."""

    def left(self) -> MemberResult:
        """Return the result of a run that is not worth more steps."""
        return replace(self, outcome=f"left after step {self.step}")

    @property
    def finished(self) -> bool:
        return self.outcome == FINISHED


def read_member(folder: Path, name: str) -> MemberResult:
    """Return what a finished run's own folder says."""
    results = read_run(folder).results
    return MemberResult(
        name=name,
        outcome=FINISHED,
        scores=dict(results.get("delta") or {}),
        train_loss=results.get("train_loss_last"),
        seconds=results.get("seconds"),
    )


def require_same_sweep(folder: Path, axes: Sequence[Axis]) -> None:
    """Raise ConfigError where the folder holds a sweep over other settings, or something else."""
    path = folder / FILE
    if not folder.exists():
        return
    if not path.is_file():
        if folder.is_dir() and not any(folder.iterdir()):
            return
        raise ConfigError(
            f"--out {folder} holds no sweep: there is no {FILE} in it", hint="Give a folder that does not exist yet."
        )
    try:
        was = json.loads(path.read_text(encoding="utf-8"))["over"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: does not read: {error}", hint="Move it away, or give another --out.") from error
    now = _over(axes)
    if was != now:
        raise ConfigError(
            f"--out {folder} holds a sweep over {_spell(was)}, and this one is over {_spell(now)}",
            hint="Give the same --over to go on with it, or another --out.",
        )


def write_results(folder: Path, axes: Sequence[Axis], members: Sequence[Member], found: Sequence[MemberResult]) -> None:
    """Write sweep.json. Raises OutputError."""
    by_name = {one.name: asdict(one) for one in found}
    runs = [{"sets": list(m.sets), **by_name.get(m.name, {"name": m.name, "outcome": "waiting"})} for m in members]
    write_text(folder / FILE, json.dumps({"over": _over(axes), "runs": runs}, indent=1, ensure_ascii=False) + "\n")


def ranked(found: Sequence[MemberResult], metric: Metric) -> list[MemberResult]:
    """Return the runs, the best one first: by `metric`, or where nothing was evaluated by the training loss. Unfinished ones come last."""

    def place(one: MemberResult) -> tuple[bool, float]:
        value = one.scores.get(metric.name, one.scores.get("loss"))
        if value is None:
            return not one.finished, one.train_loss if one.train_loss is not None else float("inf")
        higher = metric.higher_is_better and metric.name in one.scores
        return not one.finished, -value if higher else value

    return sorted(found, key=place)


def results_text(found: Sequence[MemberResult], metric: Metric) -> str:
    """Return the table, the best run first."""
    rows = ranked(found, metric)
    names = list(dict.fromkeys(name for one in rows for name in one.scores))
    lines: list[tuple[str, ...]] = [("run", *names, _TRAIN_LOSS, "seconds", "outcome")]
    for one in rows:
        figures = [spell(one.scores.get(name)) for name in names]
        seconds = "-" if one.seconds is None else f"{one.seconds:.0f}"
        lines.append((one.name, *figures, spell(one.train_loss), seconds, one.outcome))
    return columns(lines)


def _over(axes: Sequence[Axis]) -> dict[str, list[str]]:
    return {axis.name: list(axis.values) for axis in axes}


def _spell(over: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{name}={','.join(values)}" for name, values in over.items())
