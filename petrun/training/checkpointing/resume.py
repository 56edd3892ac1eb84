"""Resume a run that ended early: find its folder and state, and require that it is still the same run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from petrun import __version__, console
from petrun.assets import default_recipe
from petrun.checkpoint.run_files import RESULTS, RUN_YAML, is_finished
from petrun.checkpoint.training_state import Found, clear, find_state
from petrun.cluster.world import World, start_up
from petrun.config.load import as_begun, dump_run, load_run_config
from petrun.config.options import Flags
from petrun.config.resolved import Resolved
from petrun.errors import ConfigError, OutputError, TrainingError
from petrun.tensors.atomic import output_error
from petrun.tensors.output import write_text
from petrun.train.loop import Plan
from petrun.training.checkpointing.fingerprint import (
    Fingerprint,
    other_versions,
    require_known,
    require_same_run,
    settings_of,
)
from petrun.training.checkpointing.progress import Progress
from petrun.training.run_folder import FINGERPRINT, STATES, RunFolder
from petrun.typing import JsonObject


def begun_folder(run: str) -> Path:
    """Return the folder of a run that was begun. Raises ConfigError."""
    folder = Path(run).expanduser()
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(f"{run} {what}", hint="Give the folder of a run, such as runs/lora-1.")
    if not (folder / RUN_YAML).exists():
        raise ConfigError(
            f"{run} holds no run: it has no {RUN_YAML}", hint="Give the folder of a run, such as runs/lora-1."
        )
    return folder


@dataclass(frozen=True, kw_only=True)
class ResumedRun:
    """Names the recipe and flags with which a run resumes."""

    run: str
    """Its folder, as typed."""
    recipe: str
    flags: Flags
    finished: bool
    """Whether the run had made all its steps; changed settings may make it longer."""

    def load(self, sets: Sequence[str]) -> Resolved:
        """Return its settings, changed by `sets`. Raises ConfigError."""
        resolved = load_run_config(self.recipe, self.flags, sets, embedded=default_recipe())
        own = run_yaml(self.run)
        return as_begun(resolved, own) if self.recipe == str(own) else resolved


def find_resumed(
    run: str,
    recipe: str | None,
    flags: Flags,
    sets: Sequence[str],
    *,
    allowed: Sequence[str] = (),
    command: str | None = None,
) -> ResumedRun | None:
    """Return the recipe and flags with which a run resumes: its run.yaml, where no other recipe is given.

    Returns None where the run is finished and its settings are unchanged, which is printed. `command`: the command, without the run, that
    resumes in this process alone; None: other processes resume it, or it may be a run of several ranks. Raises ConfigError for a folder
    that holds no run, for a run of several ranks in one process, and for unknown settings.
    """
    folder = begun_folder(run)
    given = flags.get("out.dir")
    if given is not None and Path(str(given[1])).expanduser().resolve() != folder.resolve():
        raise ConfigError(f"--out {given[1]} contradicts --resume {run}", hint="Leave --out out.")
    found = ResumedRun(
        run=run,
        recipe=recipe or str(run_yaml(run)),
        flags={**flags, "out.dir": ("--resume", run)},
        finished=is_finished(folder),
    )
    if found.finished and not _changes_settings(found, sets, allowed):
        console.print(f"{run} is finished: there is nothing to resume")
        _require_learned(run, folder / RESULTS)
        return None
    if command is not None and start_up() == "alone":
        _require_one_rank(run, command)
    return found


def _changes_settings(resumed: ResumedRun, sets: Sequence[str], allowed: Sequence[str]) -> bool:
    """Whether a setting differs from the finished run's own. Files that are compared by content may still be the same.

    Raises ConfigError for a key that is not a setting.
    """
    embedded = default_recipe()
    was = settings_of(load_run_config(str(run_yaml(resumed.run)), {}, embedded=embedded).config)
    now = settings_of(load_run_config(resumed.recipe, resumed.flags, sets, embedded=embedded).config)
    require_known(allowed, (*was, "tokenizer", "rows"))
    # run.yaml holds inferred values too, where a recipe says nothing.
    return any(value is not None and value != was.get(key) for key, value in now.items())


def _require_one_rank(run: str, command: str) -> None:
    """Raise ConfigError where the run was begun by several ranks: it resumes with as many."""
    ranks = ranks_of(run)
    if ranks > 1:
        raise ConfigError(
            f"{run} was begun by {ranks} ranks, and this is one process",
            hint=f"{command} {run} --cards {ranks} (on several hosts also --hosts, --host-rank and --master-addr, on each)",
        )


def ranks_of(run: str) -> int:
    """Return how many ranks the run was started with; 1 where run.yaml does not state it."""
    try:
        noted = json.loads((Path(run).expanduser() / STATES / FINGERPRINT).read_bytes())
        return int(noted["parallel.dp"]) * int(noted["parallel.tp"]) * int(noted["parallel.pp"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 1


def _require_learned(run: str, results: Path) -> None:
    """Raise TrainingError where the receipt of a finished run says that nothing was learned."""
    try:
        content = json.loads(results.read_bytes())
    except (OSError, ValueError, RecursionError):
        # That the file exists is enough to finish a run.
        return
    receipt = content.get("receipt") if isinstance(content, dict) else None
    failures = receipt.get("failures") if isinstance(receipt, dict) else None
    if failures:
        raise TrainingError(f"{run}: nothing was learned: {failures[0]}", hint="Begin another run: this one is over.")


def run_yaml(run: str) -> Path:
    """Return the path of the run's own settings."""
    return Path(run).expanduser() / RUN_YAML


def find_newest_state(out: RunFolder, world: World) -> Found:
    """Find the newest complete state of a run, and print what is wrong with newer ones. Every rank must call it.

    Raises TrainingError where the ranks do not see the same.
    """
    if out.writes:
        clear(out.states)
    found = find_state(out.states)
    for text in found.torn:
        console.print(f"torn state: {text}")
    has = found.state is not None
    if world.any_rank(has) and world.any_rank(not has):
        raise TrainingError(
            f"{out.states}: not all ranks see a state there",
            hint="Every rank reads it: --out must lie on a shared disk.",
        )
    return found


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """Where a run starts its loop."""

    progress: Progress = field(default_factory=Progress)
    settings_changed: bool = True
    """The folder does not hold these settings yet."""
    scores: dict[str, float] = field(default_factory=dict)
    """Scores on the evaluation data after the last step of a finished run that is made longer."""


def starting_point(
    out: RunFolder, found: Found | None, fingerprint: JsonObject, allowed: Sequence[str], plan: Plan
) -> StartingPoint:
    """Return where the run in `out` starts: at step 1, or after the state `found` of the run that it holds, which is printed.

    The results of a finished run are kept under another name.
    Raises ConfigError for a run of other settings or data than `allowed` permits, and for a finished one that has no more steps to
    make; OutputError for one that has saved a delta and cannot resume.
    """
    if found is None:
        return StartingPoint()
    place = str(out.path)
    finished = finished_steps(out)
    if found.state is None:
        _require_start_over(out, found, fingerprint, allowed, finished)
        return StartingPoint()
    changed = require_same_run(found.state.identity, fingerprint, allowed, place)
    for key, text in changed.items():
        console.tell(f"allowed: {key}: {text}")
    print_other_versions(found.state.identity, fingerprint)
    try:
        progress = Progress(**found.state.notes)
    except TypeError as error:
        raise TrainingError(
            f"{found.state.path}: does not read: {error}", hint="Was it written by a newer petrun?"
        ) from error
    if finished is not None and plan.total_steps <= finished:
        raise ConfigError(
            f"{place} is finished after {finished} steps, and these settings make {plan.total_steps}",
            hint="Give more: --set train.steps=N --allow train.steps (or train.epochs, where the run has that).",
        )
    what = "a run that did not finish" if finished is None else f"a run that is finished after {finished} steps"
    console.tell(f"{place} holds {what}: it resumes after step {progress.step}")
    scores = {} if finished is None else _archive_results(out, finished, progress.step)
    return StartingPoint(progress=progress, settings_changed=bool(changed), scores=scores)


def _require_start_over(
    out: RunFolder, found: Found, fingerprint: JsonObject, allowed: Sequence[str], finished: int | None
) -> None:
    """Require that a run without a state may start over, and print that it does. Raises ConfigError and OutputError."""
    place = str(out.path)
    if finished is not None:
        raise ConfigError(
            f"{place} is finished, and none of its training states is left: there is nothing to resume from",
            hint=f"Begin another run from its delta: petrun train --init-delta {shlex.quote(place)} ...",
        )
    if not out.writes:
        return
    saved = [path for path in (out.delta, out.best) if path.exists()]
    if saved:
        # The same run saves the same delta again, so that only there the file may be replaced.
        require_same_run(_read_fingerprint(out, saved), fingerprint, allowed, place)
    reason = "its states are torn" if found.torn else "it had saved no state yet"
    console.print(f"{place} holds a run that did not finish; {reason}: it starts over")


def print_other_versions(was: Fingerprint, now: Fingerprint) -> None:
    """Print which versions differ from those that the run was begun with, if any: they may round otherwise."""
    versions = other_versions(was, now)
    if versions:
        console.tell(f"other versions than before, so that the last bits may differ: {versions}")


def finished_steps(out: RunFolder) -> int | None:
    """Return how many steps the finished run in the folder has made; None where it is not finished. Raises OutputError."""
    if not out.finished:
        return None
    results = out.path / RESULTS
    try:
        return int(json.loads(results.read_bytes())["steps"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise OutputError(
            f"{results}: does not read", hint="It marks the run as finished; move it away to resume."
        ) from error


def _archive_results(out: RunFolder, finished: int, step: int) -> dict[str, float]:
    """Rename results.json of a run that was finished after so many steps, which makes it an unfinished one.

    Returns its last scores on the evaluation data; {} where it resumes after an earlier `step`. Raises OutputError.
    """
    scores = json.loads((out.path / RESULTS).read_bytes()).get("delta", {})
    if out.writes:
        kept = out.path / f"results-{finished}.json"
        try:
            (out.path / RESULTS).rename(kept)
        except OSError as error:
            raise output_error(out.path / RESULTS, error) from error
        console.print(
            f"results of its first {finished} steps are kept in {kept.name}; its delta is replaced when the run ends"
        )
    # Scores of a later step than the state's do not belong to the weights that are loaded.
    return {name: float(value) for name, value in scores.items() if value is not None and step == finished}


def _read_fingerprint(out: RunFolder, saved: list[Path]) -> JsonObject:
    """Return the fingerprint that a run wrote when it began. Raises OutputError."""
    path = out.states / FINGERPRINT
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(
            f"{out.path} holds a run that did not finish, with a delta that it saved: {saved[0].name}; {path} does not read",
            hint="Give another folder; to start over in this one, move what it saved away first.",
        ) from error
    return content if isinstance(content, dict) else {}


def write_settings(out: RunFolder, resolved: Resolved, fingerprint: JsonObject) -> None:
    """Write run.yaml and the fingerprint of the run, before its first step. Raises OutputError."""
    if not out.writes:
        return
    out.write_text(RUN_YAML, dump_run(resolved, __version__))
    try:
        out.states.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out.states}: cannot be made: {error.strerror}") from error
    write_text(out.states / FINGERPRINT, json.dumps(fingerprint, indent=1) + "\n")
