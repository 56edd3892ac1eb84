"""Choose what is rehearsed: the settings of the job, its cards, and which of its ranks are compiled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from petrun.assets import default_recipe
from petrun.checkpoint.delta import Delta
from petrun.config.load import load_run_config
from petrun.config.options import Flags
from petrun.config.resolved import Resolved
from petrun.config.schema import RunConfig
from petrun.errors import ConfigError
from petrun.parallel.layout import Layout
from petrun.rehearsal.shapes import BatchShapes
from petrun.training.setup.starting_delta import read_start, resolve_algorithm

_CARDS = 8
"""Cards of a host, where neither --cards nor --parallel says how many there are."""


JOB_FILE = "job.json"
STRATEGY_FILE = "stage.ckpt"
"""A rank's file that says how the parameters of its stage are sharded."""


@dataclass(frozen=True, kw_only=True)
class RankJob:
    """Holds what every rank's process is told, in a file."""

    recipe: str | None
    flags: Flags
    sets: Sequence[str]
    level: int
    """0: compile only. 1: choose kernels and plan the memory as well."""
    writes_strategy: bool
    shapes: BatchShapes
    cards: int = 1
    steps: int = 0
    """Steps that are computed; 0: the graph is compiled and not kept."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> RankJob:
        content = json.loads(path.read_text(encoding="utf-8"))
        # JSON has no tuples.
        flags = {key: (flag, value) for key, (flag, value) in content["flags"].items()}
        shapes = content["shapes"]
        arrays = {name: (dtype, tuple(shape)) for name, (dtype, shape) in shapes["arrays"].items()}
        return cls(**{**content, "flags": flags, "shapes": BatchShapes(**{**shapes, "arrays": arrays})})


def read_settings(recipe: str | None, flags: Flags, sets: Sequence[str]) -> tuple[Resolved, Delta | None]:
    """Read the run's configuration and its starting delta as `petrun train` does. Raises ConfigError."""
    given = load_run_config(recipe, flags, sets, embedded=default_recipe())
    start = read_start(given)
    resolved = resolve_algorithm(given, start)
    if resolved.config.device == "cpu":
        raise ConfigError(
            f"{resolved.origins.get('device', 'device')} cpu: a rehearsal is of Ascend cards",
            hint="Leave it out, or: petrun rehearse ... --device ascend",
        )
    return resolved, start


def card_count(config: RunConfig, cards: int | None) -> int:
    """Return `cards`, or else as many as --parallel names, or a host's."""
    asked = config.parallel
    own = asked.tp * asked.pp
    return cards if cards is not None else own * (asked.dp if asked.dp is not None else max(1, _CARDS // own))


def choose_ranks(asked: Sequence[int] | None, layout: Layout, every_stage: bool) -> list[int]:
    """Choose the ranks to compile: by default the first and the last, which differ in every coordinate of the layout.

    `every_stage`: at least one rank of each pipeline stage, for strategy files. Raises ConfigError.
    """
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
