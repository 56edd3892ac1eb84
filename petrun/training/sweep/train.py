"""Train one run of a sweep."""

from __future__ import annotations

import json
import time

from petrun import console
from petrun.cluster.world import ALONE
from petrun.errors import ConfigError, TrainingError
from petrun.training import run_folder
from petrun.training.checkpointing import resume as resuming
from petrun.training.checkpointing.fingerprint import fingerprint_of, require_same_run
from petrun.training.fill import fill
from petrun.training.run_folder import FINGERPRINT, STATES
from petrun.training.run_lock import RunLock
from petrun.training.setup.starting_delta import algo_to_train
from petrun.training.sweep.plan import PlannedRun
from petrun.training.sweep.results import MemberResult, is_finished, read_member
from petrun.training.sweep.shared_graph import SharedGraph
from petrun.typing import JsonObject


def train_run(one: PlannedRun, shared: SharedGraph) -> MemberResult:
    """Train one run, go on with it, or find it finished."""
    began, config = time.monotonic(), one.resolved.config
    with RunLock(console.print) as lock:
        finished = is_finished(one.folder)
        out, resumes = run_folder.choose_for_ranks(
            config.out, algo_to_train(one.resolved.settings, None), ALONE, lock, longer=finished
        )
        setup = shared.build(one.resolved)
        if (one.folder / STATES / FINGERPRINT).is_file():
            _require_same_run(one, fingerprint_of(setup.resolved, setup.assembled.loaded))
        if finished:
            console.print(f"{one.folder} is finished")
            return read_member(one.folder, one.member.name)
        found = resuming.find_newest_state(out, ALONE) if resumes else None
        out = run_folder.create_for_ranks(out, one.resolved.layout, ALONE, lock)
        try:
            fill(out, setup, found, ALONE, began=began)
        except TrainingError as error:
            console.print_error(error.message, error.hint, label="run ended")
            return MemberResult(name=one.member.name, outcome=error.message.partition(";")[0])
    if not is_finished(one.folder):
        return MemberResult(name=one.member.name, outcome=f"its time is up: petrun resume {one.folder}")
    return read_member(one.folder, one.member.name)


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
