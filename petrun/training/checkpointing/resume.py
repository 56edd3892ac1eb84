"""Going on with a run that ended early: which folder, from which state, and whether it is still the same run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petrun import console
from petrun.assets import default_recipe
from petrun.checkpoint.run_files import RESULTS, RUN_YAML
from petrun.checkpoint.training_state import Found, clear, find_state
from petrun.cluster.world import World, start_up
from petrun.config.load import load_run_config
from petrun.errors import ConfigError, OutputError, TrainingError
from petrun.tensors.atomic import output_error
from petrun.tensors.output import write_text
from petrun.train.loop import Plan
from petrun.training.checkpointing.fingerprint import hold, newer, require_known, settings_of
from petrun.training.checkpointing.progress import Progress
from petrun.training.run_folder import IDENTITY, STATES, RunFolder

Flags = Mapping[str, tuple[str, Any]]


def folder_of(run: str) -> Path:
    """The folder of a run that was begun. Raises ConfigError."""
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
class Again:
    """What goes on with a run."""

    recipe: str
    flags: dict[str, tuple[str, Any]]
    finished: bool
    """The run had made all its steps, and other settings than its own may make it longer."""


def source(
    run: str,
    recipe: str | None,
    flags: Flags,
    sets: Sequence[str],
    *,
    allowed: Sequence[str] = (),
    again: str | None = None,
) -> Again | None:
    """The recipe and flags of a run that goes on: its run.yaml, where no other recipe is given. None: it is finished, the settings are
    those that it was begun with, and it says so.

    `again`: what was typed, without the run, by who goes on with it in this process; None: others do, or it may have been of more.
    Raises ConfigError for a folder that holds no run, for one of several ranks in a process by itself, and for unknown settings.
    """
    folder = folder_of(run)
    given = flags.get("out.dir")
    if given is not None and Path(given[1]).expanduser().resolve() != folder.resolve():
        raise ConfigError(f"--out {given[1]} contradicts --resume {run}", hint="Leave --out out.")
    found = Again(
        recipe=recipe or str(run_yaml(run)),
        flags={**flags, "out.dir": ("--resume", run)},
        finished=(folder / RESULTS).exists(),
    )
    if found.finished and not _asks_for_changes(run, found, sets, allowed):
        console.print(f"{run} is finished: there is nothing to go on with")
        _hold_finished(run, folder / RESULTS)
        return None
    if again is not None and start_up() == "alone":
        _hold_ranks(run, again)
    return found


def _asks_for_changes(run: str, asked: Again, sets: Sequence[str], allowed: Sequence[str]) -> bool:
    """Whether a setting differs from what the finished run notes. What is compared by content may be the same all the same.

    Raises ConfigError for a key that is no setting.
    """
    embedded = default_recipe()
    was = settings_of(load_run_config(str(run_yaml(run)), {}, embedded=embedded).config)
    now = settings_of(load_run_config(asked.recipe, asked.flags, sets, embedded=embedded).config)
    require_known(allowed, (*was, "tokenizer", "rows"))
    # run.yaml holds what was inferred too, where a recipe says nothing.
    return any(value is not None and value != was.get(key) for key, value in now.items())


def _hold_ranks(run: str, command: str) -> None:
    """Raises ConfigError where the run was begun by several ranks: it is gone on with by as many."""
    ranks = ranks_of(run)
    if ranks > 1:
        raise ConfigError(
            f"{run} was begun by {ranks} ranks, and this is one process",
            hint=f"{command} {run} --cards {ranks} (on several hosts also --hosts, --host-rank and --master-addr, on each)",
        )


def ranks_of(run: str) -> int:
    """How many ranks the run was begun with; 1 where it does not say."""
    try:
        noted = json.loads((Path(run).expanduser() / STATES / IDENTITY).read_bytes())
        return int(noted["parallel.dp"]) * int(noted["parallel.tp"]) * int(noted["parallel.pp"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 1


def _hold_finished(run: str, results: Path) -> None:
    try:
        content = json.loads(results.read_bytes())
    except (OSError, ValueError, RecursionError):
        # It is there, which is what finishes a run.
        return
    receipt = content.get("receipt") if isinstance(content, dict) else None
    failures = receipt.get("failures") if isinstance(receipt, dict) else None
    if failures:
        raise TrainingError(f"{run}: nothing was learned: {failures[0]}", hint="Begin another run: this one is over.")


def run_yaml(run: str) -> Path:
    """Where the run in a folder notes its settings."""
    return Path(run).expanduser() / RUN_YAML


def look(out: RunFolder, world: World) -> Found:
    """The newest whole state of a run, saying which newer ones are torn. Raises TrainingError where the ranks do not see the same."""
    if out.writes:
        clear(out.states)
    found = find_state(out.states)
    for text in found.torn:
        console.print(f"torn state: {text}")
    has = found.state is not None
    if world.agree(has) and world.agree(not has):
        raise TrainingError(
            f"{out.states}: not all ranks see a state there",
            hint="Every rank reads it: --out must lie on a shared disk.",
        )
    return found


def go_on(
    out: RunFolder, found: Found, identity: dict[str, Any], allowed: Sequence[str], plan: Plan
) -> tuple[Progress, bool]:
    """How far the run in `out` is, and whether its settings change, as `allowed` lets them. Says what happens.

    Raises ConfigError for a run of other settings or data, and a finished one that has no more steps to make; OutputError for one that
    has saved a delta and cannot go on.
    """
    place = str(out.path)
    finished = finished_steps(out)
    if found.state is None and finished is not None:
        raise ConfigError(
            f"{place} is finished, and none of its training states is left: there is nothing to go on from",
            hint=f"Begin another run from its delta: petrun train --init-delta {shlex.quote(place)} ...",
        )
    if found.state is None:
        if not out.writes:
            return Progress(), True
        saved = [path for path in (out.delta, out.best) if path.exists()]
        if saved:
            # What it has saved comes again where the run is the same, and only there may be written over.
            hold(_begun(out, saved), identity, allowed, place)
        again = "its states are torn" if found.torn else "it had saved no state yet"
        console.print(f"{place} holds a run that did not finish; {again}: it starts over")
        return Progress(), True
    changed = hold(found.state.identity, identity, allowed, place)
    for key, text in changed.items():
        console.print(f"allowed: {key}: {text}")
    versions = newer(found.state.identity, identity)
    if versions:
        console.print(f"other versions than before, so that the last bits may differ: {versions}")
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
    console.print(f"{place} holds {what}: it goes on after step {progress.step}")
    return progress, bool(changed)


def finished_steps(out: RunFolder) -> int | None:
    """How many steps the finished run in the folder has made; None where it is not finished."""
    if not out.finished:
        return None
    results = out.path / RESULTS
    try:
        return int(json.loads(results.read_bytes())["steps"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise OutputError(
            f"{results}: does not read", hint="It marks the run as finished; move it away to go on."
        ) from error


def reopen(out: RunFolder, step: int) -> dict[str, float]:
    """Make a finished run an unfinished one: its results are kept beside, and the next end of the run writes new ones. Returns its last
    scores on the evaluation data; {} where the run was not finished, or goes on after an earlier `step`. Raises OutputError.
    """
    finished = finished_steps(out)
    if finished is None:
        return {}
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
    # Those of a later step than the state's are none of the weights that are loaded.
    return {name: float(value) for name, value in scores.items() if value is not None and step == finished}


def _begun(out: RunFolder, saved: list[Path]) -> dict[str, Any]:
    """The identity that a run noted when it began."""
    path = out.states / IDENTITY
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(
            f"{out.path} holds a run that did not finish, with a delta that it saved: {saved[0].name}; {path} does not read",
            hint="Give another folder; to start over in this one, move what it saved away first.",
        ) from error
    return content if isinstance(content, dict) else {}


def note_identity(out: RunFolder, identity: Mapping[str, Any]) -> None:
    """Write down which run this is, before its first step."""
    if not out.writes:
        return
    try:
        out.states.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out.states}: cannot be made: {error.strerror}") from error
    write_text(out.states / IDENTITY, json.dumps(identity, indent=1) + "\n")
