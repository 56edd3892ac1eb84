"""Resolves `--parallel auto`: the layout follows from the memory plan of the run's net."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from petrun.config.resolved import Resolved
from petrun.config.schema import RunConfig
from petrun.delta import find_method
from petrun.errors import ConfigError
from petrun.graph.freeze import trainable_of
from petrun.models.factory import is_factory
from petrun.parallel.auto import Batch, Candidate, choose
from petrun.parallel.context import Device
from petrun.parallel.layout import KEYS, Layout
from petrun.parallel.memory.plan import MemoryPlan
from petrun.training.setup.build_step import build_loss
from petrun.training.setup.memory_plan import RunMemory, UnknownMemoryError, memory_of
from petrun.training.setup.outline import longest_row, outline_run, sizes_of

_MANY_STEPS = 10**6
"""No method finds a run of so many too short."""
_STAND_IN = "lora"
"""The method whose memory is planned for one with cells that the plan does not follow. All of those train as small a part of the net."""


def resolve_auto(resolved: Resolved, cards: int) -> tuple[Resolved, tuple[str, ...]]:
    """Replace `--parallel auto` by the layout that it chooses. Returns the settings, and the lines that say why. Raises ConfigError."""
    config = resolved.config
    asked = config.parallel
    if not asked.auto:
        return resolved, ()
    fixed = [f"{key}={getattr(asked, key)}" for key in KEYS if resolved.given(f"parallel.{key}")]
    if fixed:
        raise ConfigError(f"--parallel auto contradicts {', '.join(fixed)}", hint="Give one or the other.")
    batch = Batch(
        rows=config.train.batch_size,
        tokens=longest_row(config),
        recompute=asked.recompute,
        free=not resolved.given("parallel.recompute"),
    )
    plan, notes = needed(config)
    choice = choose(cards, sizes_of(config), batch, plan, asked.card_memory, partial(refusal, config))
    settled = {**asdict(choice.layout), "recompute": choice.recompute, "auto": False, "card_memory": None}
    parallel = asked.model_copy(update=settled)
    return Resolved(config.model_copy(update={"parallel": parallel}), resolved.origins), (*notes, *choice.why)


def needed(config: RunConfig) -> tuple[Callable[[Candidate], MemoryPlan], tuple[str, ...]]:
    """Return what plans the fullest card of a candidate, and a line where another method's memory stands for that of the run.

    Raises ConfigError for a user's own net.
    """
    if is_factory(config.model.family):
        raise ConfigError(
            f"--parallel auto: --model {config.model.family} does not say its sizes",
            hint="Leave --parallel out: all cards are data parallel then.",
        )
    notes: tuple[str, ...] = ()
    try:
        memory = _memory(config)
    except UnknownMemoryError as error:
        notes = (f"planned as --algo {_STAND_IN}: {error}",)
        memory = _memory(config.model_copy(update={"algo": _STAND_IN, "delta": find_method(_STAND_IN).config()}))

    def plan(tried: Candidate) -> MemoryPlan:
        return memory.plan(layout=tried.layout, recompute=tried.recompute)

    return plan, notes


def _memory(config: RunConfig) -> RunMemory:
    """Return what plans the run on one card. Raises UnknownMemoryError where the plan does not follow its net."""
    card = Device("ascend", config.model.dtype or "bfloat16", None)
    memory = memory_of(config, card, Layout(), longest_row(config), None)
    memory.plan()
    return memory


def refusal(config: RunConfig, layout: Layout) -> str:
    """Return why the net or the method does not allow this layout; "" where they do."""
    if not layout.split:
        return ""
    assembled = outline_run(config)
    try:
        build_loss(config, assembled, trainable_of(assembled.loaded.net), _MANY_STEPS, layout)
    except ConfigError as error:
        return error.message.partition("\n")[0].removeprefix(f"--parallel {layout}: ")
    return ""
