"""The step compiled by a process of each rank, and what they found."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from petrun import errors
from petrun.console import progress
from petrun.errors import ConfigError, PetrunError, SetupError
from petrun.parallel.front_end import front_end_reason
from petrun.parallel.layout import Layout
from petrun.rehearsal.job import STRATEGY
from petrun.rehearsal.processes import Ended, run_ranks
from petrun.tensors.atomic import atomic_folder


def require_layout(layout: Layout, found: Sequence[Mapping[str, Any]]) -> None:
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


def compile_ranks(
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
            "petrun.rehearsal.rank",
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
                    stage = layout.coordinates(rank)[0]
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
        text = f"{who} ({layout}): MindSpore's front end refuses it: {front_end_reason(ended.text, outcome['failed'])}"
        more = f"\n{ended.tail}\n{outcome['traceback']}" if debug else ""
        return ConfigError(text + more, hint="" if debug else "--debug shows all of it.")
    return SetupError(
        f"{who}: its process ended with {ended.code} before it was done:\n{ended.tail}",
        hint="Rehearse fewer ranks, or a smaller model: this may be this machine's memory." if ended.code < 0 else "",
    )
