"""`petrun rehearse`."""

from __future__ import annotations

import inspect
import sys
from typing import Annotated, Any

from petrun.cli import cluster
from petrun.cli.options import RUN, Text, Whole, option, split_list
from petrun.cli.train import PARALLEL, train, train_flags
from petrun.errors import ConfigError

_LAUNCH = ("context", *(name for name in cluster.NAMES if name != "cards"))
_RUN = ("dry_run", "out", "fmt", "device", "resume", "allow", "save_every", "keep", "max_time", "on_nan")
_NOT_OURS = (*_LAUNCH, *_RUN)
"""Options of `petrun train` that start its ranks, say where its results go, and on what it computes."""


def _own(
    cards: Annotated[
        Whole, option("--cards", "Cards of the cluster. Default: dp * tp * pp of --parallel, else 8.", PARALLEL)
    ] = None,
    ranks: Annotated[
        Text, option("--ranks", "Ranks to compile, comma-separated: 0,8. Default: the first and the last.", PARALLEL)
    ] = None,
    level: Annotated[
        int,
        option(
            "--level",
            "0: compile only. 1: choose kernels and plan the memory as well. Default 1.",
            PARALLEL,
            min=0,
            max=1,
        ),
    ] = 1,
    json: Annotated[Text, option("--json", "Write all that was found to this JSON file.", RUN)] = None,
    strategy_out: Annotated[
        Text,
        option(
            "--strategy-out",
            "Write how the job cuts its parameters into this folder, a strategy file for each stage: petrun reshard --to-strategy cuts a "
            "base by it.",
            RUN,
        ),
    ] = None,
) -> None:
    """The options that rehearse adds."""


def rehearse(**typed: Any) -> None:
    """Compile the training step of some ranks of a cluster on this machine, without a card: slices, collectives, memory.

    Takes what `petrun train` takes, and needs no weights and no data: a base's config.json is enough. Builds a stub of Ascend's
    software with g++ on first use. Computes nothing.

        petrun rehearse --base ./llama --algo lora --cards 64 --parallel tp=4 --ranks 0,63
    """
    ranks = split_list(typed["ranks"])
    if ranks is not None and not all(rank.isascii() and rank.isdigit() for rank in ranks):
        raise ConfigError(f"--ranks {typed['ranks']}: must be whole numbers with commas between", hint="--ranks 0,8")
    if typed["cards"] is not None and typed["cards"] < 1:
        raise ConfigError(f"--cards {typed['cards']}: must be at least 1")
    flags = train_flags({**dict.fromkeys(_NOT_OURS), **typed})
    # Imported here so that --help does not wait for MindSpore.
    from petrun.commands.rehearse import run

    run(
        typed["recipe"],
        flags,
        typed["settings"] or [],
        cards=typed["cards"],
        ranks=None if ranks is None else [int(rank) for rank in ranks],
        level=typed["level"],
        out=typed["json"],
        strategy=typed["strategy_out"],
        debug="--debug" in sys.argv,
    )


def _joined() -> tuple[inspect.Signature, dict[str, Any]]:
    """The options of `petrun train` that make sense here, then our own: what Typer reads of a function."""
    theirs = inspect.signature(train, eval_str=True).parameters
    own = inspect.signature(_own, eval_str=True).parameters
    parts = [*(p for name, p in theirs.items() if name not in (*_NOT_OURS, *own)), *own.values()]
    return inspect.Signature(parts), {p.name: p.annotation for p in parts}


rehearse.__signature__, rehearse.__annotations__ = _joined()  # type: ignore[attr-defined]
