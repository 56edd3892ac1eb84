"""Resolves the layout of a job that the user asked for: it is validated against the model. See resolve_auto for `--parallel auto`."""

from __future__ import annotations

from petrun.config.schema import RunConfig
from petrun.errors import ConfigError
from petrun.parallel.layout import Layout
from petrun.parallel.validate import validate_layout
from petrun.training.setup.outline import longest_row, sizes_of


def resolve_layout(config: RunConfig, cards: int) -> Layout:
    """Return the layout that was asked for. Raises ConfigError with all that does not divide, and the nearest layouts that do."""
    asked = config.parallel
    if asked.card_memory is not None and not asked.auto:
        raise ConfigError(
            f"--card-memory {asked.card_memory:g}: only --parallel auto asks for the memory of a card",
            hint="Give --parallel auto, or leave it out.",
        )
    if asked.tp == asked.pp == 1 and not asked.sequence:
        # The model is not sharded: its sizes do not matter.
        layout = validate_layout(asked, cards, None, config.train.batch_size, 0)
    else:
        layout = validate_layout(asked, cards, sizes_of(config), config.train.batch_size, longest_row(config))
    if layout.split and config.train.neftune_alpha is not None:
        raise ConfigError(
            f"--neftune-alpha: noise on embedded tokens is not for --parallel {layout}",
            hint="Leave it out, or let the ranks share the data alone: --parallel dp=N.",
        )
    return layout


def resolve_run_layout(config: RunConfig, target: str, cards: int) -> Layout:
    """Return the layout of a run that trains on `target`. Raises ConfigError as well for what that device or the run folder does not
    allow."""
    layout = resolve_layout(config, cards)
    check_device(config, layout, target)
    if layout.split and config.out.dir is None:
        raise ConfigError(
            f"--parallel {layout}: needs --out: each rank writes into the run's folder",
            hint="Give a folder that all ranks see.",
        )
    return layout


def check_device(config: RunConfig, layout: Layout, target: str) -> None:
    """Raise ConfigError for settings that need Ascend cards."""
    asked = config.parallel
    if target != "cpu":
        return
    if asked.auto:
        raise ConfigError(
            "--parallel auto: chooses by the memory of Ascend cards, and this run computes on the cpu",
            hint="Leave it out: here all ranks are data parallel. `petrun rehearse` with the same flags says what it would choose.",
        )
    if layout.split:
        raise ConfigError(
            f"--parallel {layout}: tensor, pipeline and optimizer parallel are not for the cpu, where only dp works",
            hint="`petrun rehearse` with the same flags compiles such a job here. Train with dp alone.",
        )
    if (asked.recompute, asked.offload) != ("none", "none"):
        raise ConfigError(
            "--recompute and --offload save memory of an Ascend card; this run computes on the cpu",
            hint="Leave them out.",
        )
