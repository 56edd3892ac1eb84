"""Train one run of a sweep, to its end or to a step at which it is compared with the others."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from petrun import console
from petrun.checkpoint.run_files import is_finished
from petrun.checkpoint.training_state import Found
from petrun.cluster.world import ALONE
from petrun.errors import ConfigError, TrainingError, WeightsError
from petrun.tensors.output import write_text
from petrun.training import run_folder
from petrun.training.checkpointing import resume as resuming
from petrun.training.checkpointing import snapshot
from petrun.training.checkpointing.fingerprint import fingerprint_of, require_same_run
from petrun.training.fill import fill
from petrun.training.run_folder import FINGERPRINT, STATES, RunFolder
from petrun.training.run_lock import RunLock
from petrun.training.run_record import RunRecord, read_run
from petrun.training.setup.evaluation import evaluator_of
from petrun.training.setup.starting_delta import algo_to_train
from petrun.training.setup.training_setup import TrainingSetup
from petrun.training.sweep.plan import PlannedRun
from petrun.training.sweep.results import FINISHED, MemberResult, read_member
from petrun.training.sweep.shared_graph import SharedGraph
from petrun.typing import JsonObject


def pause_run(one: PlannedRun, shared: SharedGraph, step: int) -> MemberResult:
    """Train one run up to a step, and score it there. What was scored once is kept in the run's folder."""
    file = one.folder / f"step-{step}.json"
    if file.is_file():
        return _read(file)
    found = train_run(one, shared, until=step)
    if found.step is not None:
        write_text(file, json.dumps(asdict(found)) + "\n")
    return found


def _read(file: Path) -> MemberResult:
    try:
        return MemberResult(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{file}: does not read: {error}", hint="Remove it: the run is scored again.") from error


def train_run(one: PlannedRun, shared: SharedGraph, until: int | None = None) -> MemberResult:
    """Train one run, go on with it, or find it finished. `until`: the step after which it is scored and left, to go on later."""
    began, config = time.monotonic(), one.resolved.config
    with RunLock(console.print) as lock:
        finished = is_finished(one.folder)
        out, resumes = run_folder.choose_for_ranks(
            config.out, algo_to_train(one.resolved.settings, None), ALONE, lock, longer=finished
        )
        setup = shared.build(one.resolved, one.graph)
        if (one.folder / STATES / FINGERPRINT).is_file():
            _require_same_run(one, fingerprint_of(setup.resolved, setup.assembled.loaded))
        if finished:
            console.tell(f"{one.folder} is finished")
            return read_member(one.folder, one.member.name)
        found = resuming.find_newest_state(out, ALONE) if resumes else None
        out = run_folder.create_for_ranks(out, one.resolved.layout, ALONE, lock)
        try:
            return _go_on(one, setup, out, found, began, until)
        except (TrainingError, WeightsError) as error:
            # WeightsError: the weights of a run that diverges may be finite still, and the logits not any more.
            console.print_error(error.message, error.hint, label="run ended")
            return MemberResult(name=one.member.name, outcome=error.message.partition(";")[0])


def _go_on(
    one: PlannedRun, setup: TrainingSetup, out: RunFolder, found: Found | None, began: float, until: int | None
) -> MemberResult:
    """Take the steps from the state `found` to the end, or to the step `until`."""
    state = found.state if found is not None else None
    if until is not None and state is not None and state.notes["step"] >= until:
        snapshot.restore(snapshot.state_parameters(setup.step, setup.assembled), state)
    else:
        fill(out, setup, found, ALONE, began=began, until=until)
    if is_finished(one.folder):
        return read_member(one.folder, one.member.name)
    run = read_run(one.folder)
    if until is None or len(run.steps) < until:
        return MemberResult(name=one.member.name, outcome=f"its time is up: petrun resume {one.folder}")
    return _scored(one, setup, run, until)


def _scored(one: PlannedRun, setup: TrainingSetup, run: RunRecord, step: int) -> MemberResult:
    """Score the net as it is now. The loss of a single batch would say little: the mean of the last tenth of the steps."""
    evaluator = evaluator_of(setup.config, setup.assembled.loaded, setup.resolved.sources)
    scores = evaluator.score(f"step {step}", generated=False) if evaluator is not None else {}
    losses = run.losses[:step][-max(1, step // 10) :]
    return MemberResult(
        name=one.member.name, outcome=FINISHED, scores=dict(scores), train_loss=fmean(losses), step=step
    )


def _require_same_run(one: PlannedRun, now: JsonObject) -> None:
    """Raise ConfigError where a run that was begun has other settings or data than this sweep gives it."""
    path = one.folder / STATES / FINGERPRINT
    try:
        was = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: does not read: {error}", hint="Move that run away, and it is trained anew."
        ) from error
    try:
        require_same_run(was, now, (), str(one.folder))
    except ConfigError as error:
        raise ConfigError(error.message, hint="Give the sweep as it was begun, or choose another --out.") from error
