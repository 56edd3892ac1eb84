"""The job that is rehearsed: its settings, its layout, and which of its ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from petrun.assets import default_recipe
from petrun.checkpoint.delta import Delta
from petrun.config.load import Resolved, load_run_config
from petrun.config.schema import RunConfig
from petrun.errors import ConfigError
from petrun.parallel.layout import Layout
from petrun.training.setup.resolve_layout import resolve_layout
from petrun.training.setup.starting_delta import read_start

_CARDS = 8
"""Cards of a host, where neither --cards nor --parallel says how many there are."""


STRATEGY = "stage.ckpt"
"""A rank's file of how the parameters of its stage are cut."""


Flags = Mapping[str, tuple[str, Any]]


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


def job_layout(config: RunConfig, cards: int | None) -> Layout:
    """How the cards are laid out. Raises ConfigError."""
    return resolve_layout(config, world_of(config, cards))


def world_of(config: RunConfig, cards: int | None) -> int:
    asked = config.parallel
    own = asked.tp * asked.pp
    return cards if cards is not None else own * (asked.dp if asked.dp is not None else max(1, _CARDS // own))


def chosen_ranks(asked: Sequence[int] | None, layout: Layout, every_stage: bool) -> list[int]:
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
