"""`petrun rehearse`: what a run's training step becomes on the cards of a cluster that is not there."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from petrun import __version__, errors
from petrun.assets import default_recipe, task_file
from petrun.checkpoint.delta import Delta
from petrun.config.load import Resolved, cache_folder, load_run_config
from petrun.config.schema import EvalConfig, RunConfig
from petrun.data.slices import split_slice
from petrun.data.tokenize import Tokenizer
from petrun.delta import find_method
from petrun.errors import ConfigError, PetrunError, SetupError
from petrun.models.factory import is_factory
from petrun.parallel.layout import Layout
from petrun.parallel.rehearse import Ended, front_end_fault, run_ranks
from petrun.parallel.stub_cann import ensure_stub
from petrun.runs.assemble import virtual_tokens
from petrun.runs.laying import lay_out, settle_auto
from petrun.runs.ready import batch_rows, read_start
from petrun.runs.rehearsal_report import report
from petrun.runs.rows import check_length, open_tokenizer
from petrun.runs.sources import open_sources, outlook
from petrun.tensors import atomic_file
from petrun.tensors.atomic import atomic_folder, refuse_occupied
from petrun.train.loop import make_plan
from petrun.train.report import progress, say

_STEPS = 1000
"""Steps of a run whose data is not here: they are constants of the graph and change nothing else in it."""

_CARDS = 8
"""Cards of a host, where neither --cards nor --parallel says how many there are."""

STRATEGY = "stage.ckpt"
"""A rank's file of how the parameters of its stage are cut."""

Flags = Mapping[str, tuple[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What a micro-batch of one data-parallel rank looks like, and how that is known."""

    batch: int
    tokens: int
    task: str
    reason: str
    steps: int = _STEPS
    classes: int | None = None
    arrays: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Name -> (dtype, shape of a row), where the data is arrays."""

    def __str__(self) -> str:
        length = f" x {self.tokens} tokens" if self.tokens else ""
        return f"{self.batch} rows{length} on each data-parallel rank: {self.reason}"


def run(
    recipe: str | None,
    flags: Flags,
    sets: Sequence[str],
    *,
    cards: int | None,
    ranks: Sequence[int] | None,
    level: int,
    out: str | None,
    strategy: str | None,
    debug: bool,
) -> None:
    """Compile the step of some ranks of the job, and print what stands in it.

    `out`: a JSON file of all that was found. `strategy`: a folder for the strategy files of all stages.
    """
    resolved, start = read_settings(recipe, flags, sets)
    world = _world(resolved.config, cards)
    resolved, why = settle_auto(resolved, world)
    layout = job_layout(resolved.config, world)
    for line in why:
        say(line)
    chosen = _ranks(ranks, layout, strategy is not None)
    place = Path(strategy).expanduser() if strategy is not None else None
    if place is not None:
        refuse_occupied(place)
    shapes = _shapes(resolved, start, layout)
    stub = ensure_stub(cache_folder())
    asked = {"recipe": recipe, "flags": flags, "sets": list(sets), "level": level, "cuts": place is not None}
    job = {**asked, **asdict(shapes)}
    found, wrong = _compile(job, stub, layout, chosen, place, debug)
    result = {
        "petrun": __version__,
        "layout": asdict(layout),
        "world": layout.world,
        "level": level,
        "shapes": asdict(shapes),
        "ranks": found,
        "failed": {str(rank): error.message for rank, error in wrong.items()},
    }
    _hold_to_layout(layout, found)
    if out is not None:
        with atomic_file(Path(out).expanduser()) as (file, _):
            file.write(json.dumps({**result, "auto": why}, indent=2).encode())
    if found:
        say(report(resolved.config, layout, str(shapes), found, level))
    if place is not None and not wrong:
        say(f"wrote how {layout.pp} stage{'s' if layout.pp > 1 else ''} cut their parameters: {place}")
    if wrong:
        raise next(iter(wrong.values()))


def _hold_to_layout(layout: Layout, found: Sequence[Mapping[str, Any]]) -> None:
    """What was asked for must be seen in what was compiled. Raises SetupError."""
    for rank in found:
        whole = all(p["slice"] == p["shape"] for p in rank["parameters"])
        if layout.tp > 1 and whole:
            raise SetupError(
                f"rank {rank['rank']} of {layout.world}: holds every parameter whole, though --parallel says {layout}",
                hint="This model is not cut: use dp alone.",
            )
        if rank["summed_twice"]:
            names = ", ".join(rank["summed_twice"][:3])
            raise SetupError(
                f"rank {rank['rank']} of {layout.world}: MindSpore sums the gradients of {len(rank['summed_twice'])} parameters over "
                f"the ranks more than once ({names}), so the step would be wrong",
                hint="Use dp, tp and zero instead of pp for this model.",
            )


def read_settings(recipe: str | None, flags: Flags, sets: Sequence[str]) -> tuple[Resolved, Delta | None]:
    """The run's configuration and its starting delta, as `petrun train` reads them."""
    given = {key: (flag, value) for key, (flag, value) in flags.items()}
    start, resolved = read_start(load_run_config(recipe, given, sets, embedded=default_recipe()))
    if resolved.config.device == "cpu":
        raise ConfigError(
            f"{resolved.origins.get('device', 'device')} cpu: a rehearsal is of Ascend cards",
            hint="Leave it out, or: petrun rehearse ... --device ascend",
        )
    return resolved, start


def tokenizer_beside(config: RunConfig) -> Tokenizer | None:
    """The base's tokenizer, where its folder has one."""
    return open_tokenizer(outlook(config).folder)


def job_layout(config: RunConfig, cards: int | None) -> Layout:
    """How the cards are laid out. Raises ConfigError."""
    return lay_out(config, _world(config, cards))


def _world(config: RunConfig, cards: int | None) -> int:
    asked = config.parallel
    own = asked.tp * asked.pp
    return cards if cards is not None else own * (asked.dp if asked.dp is not None else max(1, _CARDS // own))


def _ranks(asked: Sequence[int] | None, layout: Layout, every_stage: bool) -> list[int]:
    """By default the first rank and the last, which differ in every coordinate that the layout has. `every_stage`: strategy files are
    wanted, which takes a rank of each. Raises ConfigError."""
    each = layout.dp * layout.tp
    if every_stage and not layout.split:
        raise ConfigError(
            f"--strategy-out: nothing is cut by {layout}", hint="Leave it out, or give tp, pp or zero with --parallel."
        )
    if asked is None:
        firsts = range(0, layout.world, each) if every_stage else (0,)
        return sorted({*firsts, layout.world - 1})
    beyond = [rank for rank in asked if not 0 <= rank < layout.world]
    if beyond or not asked:
        raise ConfigError(
            f"--ranks {', '.join(map(str, beyond)) or 'names none'}: the job has ranks 0 to {layout.world - 1}",
            hint="Give other ranks, or more --cards.",
        )
    missing = sorted(set(range(layout.pp)) - {rank // each for rank in asked}) if every_stage else []
    if missing:
        raise ConfigError(
            f"--strategy-out: --ranks has none of stage {', '.join(map(str, missing))}",
            hint=f"Add {', '.join(str(stage * each) for stage in missing)}, or leave --ranks out.",
        )
    return sorted(set(asked))


def _shapes(resolved: Resolved, start: Delta | None, layout: Layout) -> Shapes:
    """From the data where it is on this machine, else from the settings. Raises ConfigError for a factory without data."""
    config = resolved.config
    files = config.data.path or ((str(task_file("train")),) if config.model.base is None else ())
    here = bool(files) and all(split_slice(name)[0].exists() for name in files)
    if is_factory(config.model.family) or (here and tokenizer_beside(config) is not None):
        return _shapes_of_data(resolved, start, layout)
    # A prompt's or a prefix's virtual tokens take positions away.
    own = find_method(config.algo).tokens(config.delta) if start is None else virtual_tokens(start)
    seen = outlook(config, own)
    length = check_length(config.data.seq_len, seen.longest, resolved.given("data.seq_len"), seen.tokens)
    missing = next((name for name in files if not split_slice(name)[0].exists()), None)
    why = (
        f"{missing} is not on this machine" if missing else "the base has no tokenizer" if files else "no data is given"
    )
    task = config.data.task or seen.tasks[0]
    if task not in seen.tasks:
        raise ConfigError(f"--task {task}: this base does {', '.join(seen.tasks)}", hint="Give one of these, or none.")
    classes = (
        (1 if config.data.regression else len(config.data.labels) or seen.num_labels or 2)
        if task == "classify"
        else None
    )
    return Shapes(
        batch=config.train.batch_size,
        tokens=length,
        task=task,
        reason=f"data.seq_len, as {why}"
        + (f"; {classes} classes" if (classes or 0) > 1 else "; regression" if classes else ""),
        steps=config.train.steps or _STEPS,
        classes=classes,
    )


def _shapes_of_data(resolved: Resolved, start: Delta | None, layout: Layout) -> Shapes:
    """Rows are read as training reads them; what is evaluated does not matter here."""
    config = resolved.config
    data = config.data.model_copy(update={"eval_path": (), "eval_split": 0.0})
    only = config.model_copy(update={"data": data, "eval": EvalConfig()})
    sources, settled = open_sources(Resolved(only, resolved.origins), start)
    rows = sources.train
    batching = batch_rows(settled.config, rows, layout)
    plan = make_plan(batching.batches_per_epoch, config.train.accumulate, config.train.epochs, config.train.steps)
    longest = max(batching.buckets, default=0)
    return Shapes(
        batch=config.train.batch_size,
        tokens=longest,
        task=rows.task,
        reason=f"the longest of {len(batching.buckets)} lengths of {len(rows):,} rows"
        if longest
        else f"{len(rows):,} rows",
        steps=plan.total_steps,
        classes=rows.num_labels,
        arrays={name: (str(array.dtype), tuple(array.shape[1:])) for name, array in rows.arrays.items()},
    )


def _compile(
    job: Mapping[str, Any], stub: Path, layout: Layout, ranks: Sequence[int], strategy: Path | None, debug: bool
) -> tuple[list[dict[str, Any]], dict[int, PetrunError]]:
    """(what each rank found, the errors of the others). `strategy`: where the stages' strategy files go, if all is well. The folder of the
    graphs is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="petrun-rehearsal-"))
    try:
        parallel = {f"parallel.{key}": ("--parallel", value) for key, value in asdict(layout).items()}
        parallel["parallel.auto"] = ("--parallel", False)
        flags = {**job["flags"], **parallel}
        (folder / "job.json").write_text(json.dumps({**job, "flags": flags}), encoding="utf-8")
        draw = progress("compile", "rank")
        draw(0, len(ranks))
        count = iter(range(1, len(ranks) + 1))
        ended = run_ranks(
            "petrun.runs.rehearsed_rank",
            ranks,
            stub=stub,
            world=layout.world,
            level=job["level"],
            folder=folder,
            done=lambda rank: draw(next(count), len(ranks)),
        )
        found, wrong = [], {}
        for rank in ranks:
            outcome = _outcome(folder / f"rank_{rank}.json")
            if "rank" in outcome:
                found.append(outcome)
            else:
                wrong[rank] = _error(rank, layout, outcome, ended[rank], debug)
        if strategy is not None and not wrong:
            with atomic_folder(strategy) as place:
                for rank in ranks:
                    stage = layout.place(rank)[0]
                    shutil.copyfile(folder / f"rank_{rank}" / STRATEGY, place / f"stage_{stage}.ckpt")
        return found, wrong
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _outcome(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def _error(rank: int, layout: Layout, outcome: Mapping[str, Any], ended: Ended, debug: bool) -> PetrunError:
    """One message of what a rank's process said."""
    who = f"rank {rank} of {layout.world}"
    if "refused" in outcome:
        said = outcome["refused"]
        kind: type[PetrunError] = getattr(errors, said["kind"])
        return kind(
            said["message"] if said["message"].startswith("rank ") else f"{who}: {said['message']}", hint=said["hint"]
        )
    if "failed" in outcome:
        text = f"{who} ({layout}): MindSpore's front end refuses it: {front_end_fault(ended.text, outcome['failed'])}"
        more = f"\n{ended.tail}\n{outcome['traceback']}" if debug else ""
        return ConfigError(text + more, hint="" if debug else "--debug shows all of it.")
    return SetupError(
        f"{who}: its process ended with {ended.code} before it was done:\n{ended.tail}",
        hint="Rehearse fewer ranks, or a smaller model: this may be this machine's memory." if ended.code < 0 else "",
    )
