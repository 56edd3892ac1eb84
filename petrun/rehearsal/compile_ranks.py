"""Compile the step in a process of each rank, and collect the results."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from petrun import errors
from petrun.console import progress
from petrun.errors import ConfigError, PetrunError, SetupError
from petrun.parallel.front_end import front_end_reason
from petrun.parallel.layout import Layout
from petrun.rehearsal.job import JOB_FILE, STRATEGY_FILE, RankJob
from petrun.rehearsal.processes import RankExit, run_ranks
from petrun.rehearsal.rank_result import RankResult
from petrun.tensors.atomic import atomic_folder
from petrun.typing import JsonObject


def require_sharded(layout: Layout, found: Sequence[RankResult]) -> None:
    """Raise SetupError where the compiled graphs do not shard the net as the layout says, or sum a gradient twice."""
    for rank in found:
        full = all(p["slice"] == p["shape"] for p in rank["parameters"])
        if layout.tp > 1 and full:
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


def compile_ranks(
    job: RankJob,
    stub: Path,
    layout: Layout,
    ranks: Sequence[int],
    strategy: Path | None,
    debug: bool,
    kept: Path | None = None,
) -> tuple[list[RankResult], dict[int, PetrunError]]:
    """Return (the results of the ranks, the errors of those that failed).

    `strategy`: the folder of the stages' strategy files, which is written only if there is no error. `kept`: a folder that gets what each
    rank wrote, as rank_N; without it the graphs are removed.
    """
    folder = Path(tempfile.mkdtemp(prefix="petrun-rehearsal-"))
    try:
        parallel = {f"parallel.{key}": ("--parallel", value) for key, value in asdict(layout).items()}
        parallel["parallel.auto"] = ("--parallel", False)
        replace(job, flags={**job.flags, **parallel}).write(folder / JOB_FILE)
        draw = progress("compile", "rank")
        draw(0, len(ranks))
        count = iter(range(1, len(ranks) + 1))
        ended = run_ranks(
            "petrun.rehearsal.rank",
            ranks,
            stub=stub,
            world=layout.world,
            level=job.level,
            folder=folder,
            done=lambda rank: draw(next(count), len(ranks)),
        )
        found: list[RankResult] = []
        wrong: dict[int, PetrunError] = {}
        for rank in ranks:
            outcome = _outcome(folder / f"rank_{rank}.json")
            if "rank" in outcome:
                found.append(cast(RankResult, outcome))
            else:
                wrong[rank] = rank_error(rank, layout, outcome, ended[rank], debug)
        if strategy is not None and not wrong:
            with atomic_folder(strategy) as place:
                for rank in ranks:
                    stage = layout.coordinates(rank)[0]
                    shutil.copyfile(folder / f"rank_{rank}" / STRATEGY_FILE, place / f"stage_{stage}.ckpt")
        for rank in ranks if kept is not None else ():
            shutil.move(folder / f"rank_{rank}", kept / f"rank_{rank}")  # type: ignore[operator]
        return found, wrong
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _outcome(path: Path) -> JsonObject:
    """Read what a rank's process wrote: its result, `refused` or `failed`; {} where it ended before."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def rank_error(rank: int, layout: Layout, outcome: JsonObject, ended: RankExit, debug: bool) -> PetrunError:
    """Make one error of what a rank's process wrote."""
    who = f"rank {rank} of {layout.world}"
    if "refused" in outcome:
        refused = outcome["refused"]
        kind: type[PetrunError] = getattr(errors, refused["kind"])
        return kind(f"{who}: {refused['message']}", hint=refused["hint"])
    if "failed" in outcome:
        text = f"{who} ({layout}): MindSpore's front end refuses it: {front_end_reason(ended.text, outcome['failed'])}"
        more = f"\n{ended.tail}\n{outcome['traceback']}" if debug else ""
        return ConfigError(text + more, hint="" if debug else "--debug shows all of it.")
    return SetupError(
        f"{who}: its process ended with {ended.code} before it was done:\n{ended.tail}",
        hint="Rehearse fewer ranks, or a smaller model: this may be this machine's memory." if ended.code < 0 else "",
    )
