"""Resolves the layout of a job: the one asked for is validated against the model, or `--parallel auto` chooses one."""

from __future__ import annotations

import re
from dataclasses import asdict
from functools import partial
from math import prod
from pathlib import Path

from petrun import kernels
from petrun.checkpoint.delta_method import method_of
from petrun.config.resolved import Resolved
from petrun.config.schema import RunConfig
from petrun.errors import ConfigError
from petrun.graph.freeze import match_parameters, trainable_of
from petrun.inference.assembly import Assembled, attach, base_path, head_names
from petrun.models.base import FamilyConfig
from petrun.models.factory import is_factory, outline_model, read_family
from petrun.parallel.auto import Batch, Model, choose
from petrun.parallel.layout import KEYS, Layout
from petrun.parallel.validate import Sizes, validate_layout
from petrun.training.setup.build_step import build_loss

_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_MANY_STEPS = 10**6
"""No method finds a run of so many too short."""


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
        return validate_layout(asked, cards, None, config.train.batch_size, 0)
    return validate_layout(asked, cards, sizes_of(config), config.train.batch_size, _tokens(config))


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
        tokens=_tokens(config),
        accumulate=config.train.accumulate > 1,
        recompute=asked.recompute,
        offload=asked.offload == "optimizer",
        free=not resolved.given("parallel.recompute"),
    )
    choice = choose(cards, model_of(config), batch, asked.card_memory, partial(refusal, config))
    settled = {**asdict(choice.layout), "recompute": choice.recompute, "auto": False, "card_memory": None}
    parallel = asked.model_copy(update=settled)
    return Resolved(config.model_copy(update={"parallel": parallel}), resolved.origins), choice.why


def sizes_of(config: RunConfig) -> Sizes | None:
    """Return the sizes of the base that must divide, from config.json; None for a user's own net."""
    if is_factory(config.model.family):
        return None
    parsed = _parsed(config)
    return Sizes(heads=parsed.heads, kv_heads=parsed.kv_heads, wide=parsed.wide, layers=parsed.layers)


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


def model_of(config: RunConfig) -> Model:
    """Count the values that need memory, on a net with its delta and without data. Raises ConfigError for a user's own net."""
    model = config.model
    if is_factory(model.family):
        raise ConfigError(
            f"--parallel auto: --model {model.family} does not say its sizes",
            hint="Leave --parallel out: all cards are data parallel then.",
        )
    dtype = model.dtype or "bfloat16"
    assembled = _outlined(config)
    loaded = assembled.loaded
    owned = set(assembled.owned)
    counts = {(layer, own): 0 for layer in (False, True) for own in (False, True)}
    for p in loaded.net.get_parameters():
        counts[re.search(r"\.\d+\.", p.name) is not None, p.name in owned] += prod(p.shape)
    parsed = _parsed(config)
    return Model(
        layer_values=counts[True, True] + counts[True, False],
        other_values=counts[False, True] + counts[False, False],
        trained_layer=counts[True, True],
        trained_other=counts[False, True],
        hidden=parsed.hidden,
        wide=parsed.wide,
        heads=parsed.heads,
        layers=parsed.layers,
        outputs=0 if loaded.num_labels else parsed.vocab,
        item_bytes=_ITEM_BYTES[dtype],
        sizes=sizes_of(config),
    )


def outline_run(config: RunConfig, classes: int | None = None) -> Assembled:
    """Build the net with its delta, without values, and mark what trains. `classes`: of a classifier, where the data says it."""
    assembled = _outlined(config, classes)
    net, method = assembled.loaded.net, assembled.method
    owned = {name for name in assembled.owned if name.rpartition(".")[2] not in method.fixed}
    for parameter in net.get_parameters():
        # freeze_all_but would give trained parameters another type, and with it memory.
        parameter.requires_grad = parameter.name in owned
    return assembled


def _outlined(config: RunConfig, classes: int | None = None) -> Assembled:
    """Build the net with its delta, without values, as on Ascend: without the CPU's own operators."""
    model = config.model
    with kernels.primitives_only():
        loaded = outline_model(
            base_path(model),
            family=model.family,
            config=Path(model.config) if model.config else None,
            num_labels=classes,
            compute_dtype=model.dtype or "bfloat16",
            seed=config.train.seed,
        )
        also = match_parameters(loaded.net, config.train.train_also, "--train-also")
        method, settings = method_of(config.algo, config.delta.model_dump(), "the configuration")
        return attach(loaded, method, settings, config.train.seed, head_names(loaded, also))


def _tokens(config: RunConfig) -> int:
    """Return the length of the longest row that the run may have."""
    if is_factory(config.model.family):
        return 0
    longest = _parsed(config).positions
    return config.data.seq_len if longest is None else min(config.data.seq_len, longest)


def _parsed(config: RunConfig) -> FamilyConfig:
    path = Path(config.model.config) if config.model.config else None
    return read_family(base_path(config.model), config.model.family, path)[2]
