"""Rehearse a job with numbers: compile every rank, train as one rank, compute all ranks together, and compare."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from petrun import errors
from petrun.cluster.processes.interpreter import module_command
from petrun.cluster.processes.logs import tail
from petrun.config.options import Flags
from petrun.config.resolved import Resolved
from petrun.errors import ConfigError, SetupError
from petrun.inference.base_info import read_base_info
from petrun.parallel.layout import Layout
from petrun.rehearsal.compile_ranks import compile_ranks
from petrun.rehearsal.compute import ComputedStep, compute_steps
from petrun.rehearsal.job import JOB_FILE, RankJob
from petrun.rehearsal.one_rank import FAILED, RESULT, OneRankRun, read_one_rank
from petrun.rehearsal.rank_state import CompiledRank, read_rank
from petrun.rehearsal.shrink import TOKENS, parse_shrink, shrunk_config, write_shrunk

STEPS = 3
"""Steps that are computed, where --steps does not say."""
_MODULE = "petrun.rehearsal.one_rank"


@contextmanager
def computed_flags(resolved: Resolved, flags: Flags, layout: Layout, shrink: str | None) -> Iterator[Flags]:
    """A context manager: the flags of the job that is computed. In its block the small base exists, where one was asked for.

    What is not given is float32, for which the tolerance is small.
    """
    found = dict(flags)
    if resolved.config.model.dtype is None:
        found["model.dtype"] = ("--compute", "float32")
    if shrink is None:
        yield found
        return
    layers, hidden = parse_shrink(shrink)
    config = shrunk_config(read_base_info(resolved.config).hf_config, layers, hidden, layout)
    folder = Path(tempfile.mkdtemp(prefix="petrun-shrunk-"))
    try:
        write_shrunk(folder / "base", config)
        found["model.base"] = ("--shrink", str(folder / "base"))
        if not resolved.given("data.seq_len"):
            found["data.seq_len"] = ("--shrink", TOKENS)
        yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def compute_job(job: RankJob, stub: Path, layout: Layout, dtype: str, debug: bool) -> tuple[list[ComputedStep], float]:
    """Return (the steps of all ranks beside those of one, seconds that computing them took).

    Raises PetrunError for what cannot be compiled or computed.
    """
    folder = Path(tempfile.mkdtemp(prefix="petrun-computed-"))
    try:
        run, ranks = prepare(job, stub, layout, folder, debug)
        began = time.perf_counter()
        return compute_steps(ranks, layout, run, dtype), time.perf_counter() - began
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def prepare(
    job: RankJob, stub: Path, layout: Layout, folder: Path, debug: bool
) -> tuple[OneRankRun, list[CompiledRank]]:
    """Train as one rank, and compile all ranks, with their files in `folder`. Raises PetrunError."""
    run = train_one_rank(job, folder)
    ranks = range(layout.world)
    _, failed = compile_ranks(job, stub, layout, ranks, None, debug, kept=folder)
    if failed:
        raise next(iter(failed.values()))
    return run, [read_rank(folder / f"rank_{rank}", rank) for rank in ranks]


def train_one_rank(job: RankJob, folder: Path) -> OneRankRun:
    """Train the first steps as one rank, in a process of its own, as MindSpore's device is set once. Raises PetrunError."""
    job.write(folder / JOB_FILE)
    log = folder / "one_rank.log"
    with log.open("wb") as output:
        ended = subprocess.run(
            module_command(_MODULE, str(folder)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if (folder / FAILED).is_file():
        refused = json.loads((folder / FAILED).read_text(encoding="utf-8"))["refused"]
        raise getattr(errors, refused["kind"])(f"one rank: {refused['message']}", hint=refused["hint"])
    if ended.returncode:
        lines = "\n".join(tail(log))
        raise SetupError(f"one rank: its process ended with {ended.returncode} before it was done:\n{lines}")
    return read_one_rank(folder / RESULT)


def require_computable(layout: Layout, ranks: Sequence[int] | None, strategy: str | None) -> None:
    """Raise ConfigError for options that contradict --compute."""
    if ranks is not None or strategy is not None:
        flag = "--ranks" if ranks is not None else "--strategy-out"
        raise ConfigError(
            f"{flag}: --compute compiles all {layout.world} ranks", hint=f"Leave {flag} or --compute out."
        )


def computed_steps(flags: Flags) -> int:
    """Return how many steps are computed: those of --steps, or the first of the run."""
    return int(str(flags["train.steps"][1])) if "train.steps" in flags else STEPS
