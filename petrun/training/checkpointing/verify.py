"""Verify a run: replay its last steps from the state before them, and compare every bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from petrun import console
from petrun.checkpoint.delta import read_delta
from petrun.checkpoint.run_files import RESULTS
from petrun.checkpoint.training_state import State, find_state
from petrun.config.load import as_begun, load_run_config
from petrun.errors import ConfigError, TrainingError
from petrun.parallel import context
from petrun.parallel.compile_cache import use_compile_cache
from petrun.parallel.layout import Layout
from petrun.tensors import Array
from petrun.train.loop import START, FaultHandling, Position, train
from petrun.training.checkpointing import snapshot
from petrun.training.checkpointing.fingerprint import fingerprint_of, require_same_run
from petrun.training.checkpointing.resume import begun_folder, print_other_versions, ranks_of, run_yaml
from petrun.training.run_folder import RunFolder
from petrun.training.setup.rank_batches import training_batches
from petrun.training.setup.resolve import resolve_with_layout
from petrun.training.setup.starting_delta import read_start
from petrun.training.setup.training_setup import TrainingSetup, build_training
from petrun.typing import JsonObject

_TIMES = ("seconds", "tokens_per_second")


@dataclass(frozen=True)
class Interval:
    """Holds the steps to replay: from a state (None: from the beginning) to a later file of the run."""

    start: State | None
    stop: int
    """The last step that is replayed."""
    read: Callable[[str], Array]
    """Tensor name -> the value that the run saved after that step."""
    names: tuple[str, ...]
    path: Path
    """The file that holds the saved values."""


def verify(name: str, sets: Sequence[str] = ()) -> None:
    """Replay the last steps and compare. Raises TrainingError for the first difference, ConfigError where the run's settings or data have
    changed.
    """
    path = begun_folder(name)
    if (ranks := ranks_of(name)) > 1:
        raise ConfigError(
            f"--verify: {name} was begun by {ranks} ranks, and one process replays what one process did",
            hint="Hold the log and the delta of a second run of as many ranks against it.",
        )
    given = as_begun(load_run_config(str(run_yaml(name)), {}, sets), run_yaml(name))
    start, config = read_start(given), given.config
    out = RunFolder(path=path, algo=config.algo, format=config.out.format, writes=False)
    device = context.setup(config.device, config.model.dtype, config.train.loss_scale)
    use_compile_cache(config)
    interval = last_interval(out)
    setup = build_training(resolve_with_layout(given, start, device, Layout()), scored=False)
    fingerprint = fingerprint_of(setup.resolved, setup.assembled.loaded)
    newest = find_state(out.states).state
    if newest is not None:
        require_same_run(newest.identity, fingerprint, (), name)
        print_other_versions(newest.identity, fingerprint)
    parameters = snapshot.state_parameters(setup.step, setup.assembled)
    records = replay(setup, parameters, interval)
    compare(snapshot.read_values(parameters), interval)
    compare_log(records, out.log)
    first = records[0]["step"]
    what = f"step {first}" if first == interval.stop else f"steps {first} to {interval.stop}"
    console.print(
        f"{what} replayed: {len(interval.names)} tensors of {interval.path} and {len(records)} lines of the log are the same"
    )


def last_interval(out: RunFolder) -> Interval:
    """Return the steps from the last state to the final delta of a finished run, else from the last state but one to the last."""
    if out.finished:
        stop = int(json.loads((out.path / RESULTS).read_text(encoding="utf-8"))["steps"])
        delta = read_delta(out.delta)
        state = find_state(out.states, below=stop).state
        return Interval(state, stop, lambda name: delta.tensors[name], tuple(delta.tensors), out.delta)
    newest = find_state(out.states).state
    if newest is None:
        raise ConfigError(
            f"{out.path} has saved nothing yet: there is nothing to compare with",
            hint="Resume it first: petrun resume.",
        )
    state = find_state(out.states, below=newest.step).state
    return Interval(state, newest.step, newest.read, newest.reader.names, newest.path)


def replay(setup: TrainingSetup, parameters: snapshot.Parameters, interval: Interval) -> list[JsonObject]:
    """Train over the interval; nothing is written. Returns the log's records."""
    done = START
    if interval.start is not None:
        snapshot.restore(parameters, interval.start)
        done = Position(step=interval.start.step, micro_batches=int(interval.start.notes["micro_batches"]))
    loaded = setup.assembled.loaded
    records: list[JsonObject] = []

    def on_step(record: JsonObject) -> bool:
        records.append(record)
        return int(record["step"]) >= interval.stop

    loaded.net.set_train(True)
    train(
        setup.step,
        training_batches(
            setup.resolved.sources.train,
            setup.resolved.batching,
            setup.inputs,
            loaded.pad_token_id,
            start=done.micro_batches,
        ),
        setup.resolved.plan,
        setup.inputs,
        on_step,
        done=done,
        faults=FaultHandling(
            skip_overflow=setup.resolved.device.loss_scale is not None,
            may_continue=lambda error, step: setup.resolved.config.train.on_nan == "skip",
        ),
    )
    return records


def compare(now: dict[str, Array], interval: Interval) -> None:
    """Compare every tensor with the saved one. Raises TrainingError for those that differ."""
    differing = []
    for name in interval.names:
        was, value = interval.read(name), now[name]
        if was.shape != value.shape or was.tobytes() != value.tobytes():
            differing.append(name)
    if differing:
        name = differing[0]
        gap = np.abs(interval.read(name).astype(np.float64) - now[name].astype(np.float64)).max()
        raise TrainingError(
            f"{interval.path}: replayed up to step {interval.stop}, {len(differing)} of {len(interval.names)} tensors differ, "
            f"{name} by up to {gap:.3g}",
            hint="The run is not bit-exact on this machine; it can still be resumed.",
        )


def compare_log(records: list[JsonObject], log: Path) -> None:
    """Compare every record with the log's line for that step. Raises TrainingError for the first that differs."""
    lines: dict[int, JsonObject] = {}
    for text in log.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        line = json.loads(text)
        if "loss" in line:
            lines[line["step"]] = line
    for record in records:
        was = lines.get(record["step"], {})
        for key, value in record.items():
            shown = value if not isinstance(value, float) or np.isfinite(value) else None
            if key not in _TIMES and was.get(key) != shown:
                raise TrainingError(
                    f"{log}: step {record['step']}: {key} is {was.get(key)} there, and {value} when it is replayed"
                )
