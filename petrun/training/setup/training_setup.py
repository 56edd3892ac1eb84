"""A run as far as it can be made before anything is written: rows, net, delta, optimizer, plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from petrun.checkpoint.delta import Delta
from petrun.config.load import Resolved
from petrun.config.schema import OptimConfig, RunConfig
from petrun.data.batches.buckets import Batching, plan_batches
from petrun.data.examples.example_set import ExampleSet
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.delta import find_method
from petrun.delta.method import of_the_run
from petrun.errors import ConfigError
from petrun.graph.freeze import Trainable, freeze_all_but, match_parameters
from petrun.graph.step_counts import step_count
from petrun.inference.assembly import (
    Assembled,
    attach,
    attach_delta,
    delta_if_given,
    fit_delta,
    head_names,
    method_of,
    open_base,
    set_delta,
    value_of,
)
from petrun.inference.rows import try_rows
from petrun.interop.convert import algo_of
from petrun.models.base import LoadedModel, shared_matrices
from petrun.parallel import plan
from petrun.parallel.context import Device
from petrun.parallel.layout import Layout
from petrun.parallel.reduce import SumOverRanks
from petrun.train.loop import Plan, make_plan
from petrun.train.loss import SupervisedLoss
from petrun.train.optimizers import DEFAULT_OPTIMIZER, OPTIMIZERS
from petrun.train.pipelined import PipelineStep
from petrun.train.schedules import SCHEDULES, Schedule
from petrun.train.step import TrainStep
from petrun.training import run_folder as folder
from petrun.training.receipt.samples import EvalSnapshot, SampleEvaluator
from petrun.training.setup.evaluation import require_forward_only
from petrun.training.setup.sources import Sources, open_sources
from petrun.training.setup.unused_settings import refuse_unread


@dataclass(frozen=True)
class TrainingSetup:
    """A run as far as it can be made before anything is written."""

    resolved: Resolved
    device: Device
    layout: Layout
    start: Delta | None
    sources: Sources
    assembled: Assembled
    trainable: Trainable
    batching: Batching
    plan: Plan
    schedule: Schedule
    step: TrainStep
    base: EvalSnapshot | None
    """What the base does, where that had to be found out before the delta came in."""


def build_training(
    resolved: Resolved, start: Delta | None, device: Device, layout: Layout, *, scored: bool
) -> TrainingSetup:
    """Rows, net, delta and optimizer. `scored`: with the base's scores, where they cannot be had later."""
    config = resolved.config
    sources, resolved = open_sources(resolved, start)
    refuse_unread(resolved, sources)
    if sources.train.is_regression and find_method(config.algo).needs_classes:
        raise ConfigError(
            f"--algo {config.algo} compares distributions over classes, and the labels are numbers to predict",
            hint="Choose an --algo without it; where the labels are classes: --set data.regression=false",
        )
    loaded = open_base(
        resolved.config.model,
        device,
        task=sources.task,
        num_labels=sources.train.num_labels,
        seed=config.train.seed,
        arrays=tuple(sources.train.arrays),
    )
    try_rows(loaded, sources.train)
    base: EvalSnapshot | None = None
    if layout.split:
        require_forward_only(layout, sources)
    if start is None and scored and not find_method(config.algo).identity:
        # A random prompt makes another model of it: what the base can do is found out before it comes in. A net that is cut over
        # ranks is laid out with its delta, and never computes without.
        base = SampleEvaluator(resolved.config, loaded, sources).look("base") if not layout.split else EvalSnapshot()
    resolved = prepare_method(resolved, sources.tokenizer)
    assembled, trainable, resolved = attach_method(resolved, loaded, start)
    config = resolved.config
    batching = batch_rows(config, sources.train, layout)
    plan = make_plan(batching.batches_per_epoch, config.train.accumulate, config.train.epochs, config.train.steps)
    schedule = plan_schedule(config.optim, plan, assembled.method.default_lr)
    # A method may find the run too short for it: before anything is written.
    step = build_step(config, assembled, trainable, schedule, device, layout)
    return TrainingSetup(
        resolved, device, layout, start, sources, assembled, trainable, batching, plan, schedule, step, base
    )  # fmt: skip


def read_start(resolved: Resolved) -> tuple[Delta | None, Resolved]:
    """--init-delta: its method holds, whatever the default; another --algo is an error."""
    config = resolved.config
    start = delta_if_given(config.init_delta, None, config.delta_strategy)
    if start is None:
        return None, resolved
    algo = algo_of(start)
    if algo != config.algo:
        if resolved.given("algo"):
            raise ConfigError(
                f"--algo {config.algo} contradicts --init-delta {config.init_delta}, which is a {algo} delta",
                hint="Leave --algo out.",
            )
        method, own = method_of(algo, {} if start.manifest is None else start.config, start.path)
        asked = {
            key: getattr(config.delta, key) for key in type(config.delta).model_fields if resolved.given(f"delta.{key}")
        }
        foreign = [resolved.origins[f"delta.{key}"] for key in asked if key not in method.config.model_fields]
        if foreign:
            raise ConfigError(
                f"{', '.join(foreign)}: is no setting of {algo}, which --init-delta {config.init_delta} is",
                hint=f"Settings of {algo}: {', '.join(method.config.model_fields) or 'none'}.",
            )
        # Held against the delta's own once these are known.
        settings = own.model_copy(update=asked)
        config = config.model_copy(update={"algo": algo, "delta": settings})
        resolved = Resolved(config, {**resolved.origins, "algo": "init-delta"})
    return start, resolved


def prepare_method(resolved: Resolved, tokenizer: Tokenizer | None) -> Resolved:
    """Look up in the tokenizer what the method's settings speak of."""
    config = resolved.config
    encode = partial(tokenizer.encode, special=False) if tokenizer is not None else None
    delta = find_method(config.algo).prepare(config.delta, encode)
    return Resolved(config.model_copy(update={"delta": delta}), resolved.origins)


def attach_method(
    resolved: Resolved, loaded: LoadedModel, start: Delta | None
) -> tuple[Assembled, Trainable, Resolved]:
    """Let the method (or the starting delta) in, and freeze everything it does not own."""
    config = resolved.config
    also = match_parameters(loaded.net, config.train.train_also, "--train-also")
    if start is None:
        method, settings = method_of(config.algo, config.delta.model_dump(), "the configuration")
        assembled = attach(loaded, method, settings, config.train.seed, head_names(loaded, also))
    else:
        # A MindPet checkpoint does not say its alpha: there the flag is needed, elsewhere it may only agree.
        alpha = (
            getattr(config.delta, "alpha", None)
            if start.origin == "mindpet" and resolved.given("delta.alpha")
            else None
        )
        fitted = _settle_start(resolved, loaded, fit_delta(start, loaded, alpha))
        _hold_to_training(start, fitted, loaded)
        assembled = attach_delta(loaded, fitted, config.train.seed)
        set_delta(assembled, fitted)
        assembled = replace(assembled, heads=tuple(dict.fromkeys((*assembled.heads, *also))))
        ours = [key for key in fitted.config if not of_the_run(type(assembled.config), key)]
        origins = {f"delta.{key}": "init-delta" for key in ours}
        resolved = Resolved(config.model_copy(update={"delta": assembled.config}), {**resolved.origins, **origins})
    return assembled, freeze_all_but(loaded.net, assembled.owned, assembled.method.fixed), resolved


def _hold_to_training(start: Delta, fitted: Delta, loaded: LoadedModel) -> None:
    """Refuse to go on from a peft adapter of which only a part of a matrix trains, where here the whole matrix would."""
    why = ""
    if start.origin == "peft" and start.config.get("trainable_token_indices"):
        why = "trainable_token_indices: a few rows of a matrix train"
    for own, ours in shared_matrices(loaded.names).items():
        if own in fitted.tensors and np.array_equal(fitted.tensors[own], value_of(loaded.net, ours)):
            why = f"modules_to_save: {ours} trains, and {own}, which shares it in the base, stays as it is"
    if why:
        raise ConfigError(
            f"--init-delta {start.path}: {why}; petrun would train whole matrices of both",
            hint="Merge it into its base, and start from that: petrun merge.",
        )


def _settle_start(resolved: Resolved, loaded: LoadedModel, start: Delta) -> Delta:
    """Hold the flags against the starting delta's settings; of those that belong to the run, such as dropout, the flag's holds."""
    method, own = method_of(start.algo, start.config, start.path)
    net, sites = loaded.net, loaded.sites
    asked = resolved.config.delta
    settings = own.model_dump()
    problems = []
    for key in type(own).model_fields:
        if not resolved.given(f"delta.{key}"):
            continue
        value, mine = getattr(asked, key), settings[key]
        if of_the_run(type(own), key):
            settings[key] = value
        elif key in ("target", "exclude"):
            if method.layers(net, asked, sites) != method.layers(net, own, sites):
                problems.append(
                    f"{resolved.origins[f'delta.{key}']} {','.join(value or ())} names other layers than the delta's"
                )
        elif value != mine:
            problems.append(f"{resolved.origins[f'delta.{key}']} {value} contradicts the delta's {mine}")
    if problems:
        raise ConfigError(
            f"--init-delta {start.path}:\n  " + "\n  ".join(problems),
            hint="Leave these out: the delta's settings hold.",
        )
    return replace(start, config=settings)


def batch_rows(config: RunConfig, rows: ExampleSet, layout: Layout) -> Batching:
    """The batches of all data-parallel ranks together."""
    return plan_batches(
        rows.lengths,
        batch_size=config.train.batch_size * layout.dp,
        seq_len=config.data.seq_len,
        buckets=config.data.buckets,
        order="shuffle" if config.data.shuffle else "file",
        seed=config.train.seed,
        pack=config.data.pack,
        arrays=rows.is_arrays,
    )


def plan_schedule(optim: OptimConfig, plan: Plan, default_lr: float) -> Schedule:
    """The learning rate over the run: the user's peak, or the method's own."""
    warmup = optim.warmup if optim.warmup is not None else SCHEDULES[optim.schedule].default_warmup
    return Schedule(
        kind=optim.schedule,
        peak=optim.lr if optim.lr is not None else default_lr,
        warmup_steps=step_count(warmup, plan.total_steps),
        total_steps=plan.total_steps,
        min_ratio=optim.min_lr_ratio,
    )


def resolve_inferred(
    resolved: Resolved, sources: Sources, schedule: Schedule, device: Device, out: folder.RunFolder | None
) -> Resolved:
    """Write down what was inferred, so that run.yaml holds every value that was used."""
    config = resolved.config
    inferred: dict[str, tuple[str, str, Any, str]] = {
        "data.task": ("data", "task", sources.train.task, "inferred from the columns"),
        "optim.lr": ("optim", "lr", schedule.peak, f"default of {config.algo}"),
        "optim.warmup": ("optim", "warmup", float(schedule.warmup_steps), "default"),
    }
    if out is not None:
        inferred["out.dir"] = ("out", "dir", str(out.path), "inferred: the next free number")
    origins = dict(resolved.origins)
    for key, (section, leaf, value, origin) in inferred.items():
        part = getattr(config, section)
        if getattr(part, leaf) is None:
            config = config.model_copy(update={section: part.model_copy(update={leaf: value})})
            origins[key] = origin
    if config.device is None:
        config = config.model_copy(update={"device": device.target})
        origins["device"] = "inferred: what this machine has"
    return Resolved(config, origins)


def build_step(
    config: RunConfig, assembled: Assembled, trainable: Trainable, schedule: Schedule, device: Device, layout: Layout
) -> TrainStep:
    """The compiled step of this rank, with its optimizer."""
    optim, method, net = config.optim, assembled.method, assembled.loaded.net
    # Before the optimizer, whose state is cut as the parameters are.
    total, hook = lay_out_loss(config, assembled, trainable, schedule.total_steps, layout)
    kind = OPTIMIZERS[DEFAULT_OPTIMIZER]
    optimizer = (kind.host_cell if config.parallel.offload == "optimizer" else kind.cell)(
        trainable.parameters,
        schedule,
        beta1=optim.beta1,
        beta2=optim.beta2,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        decay_all=optim.decay_all,
        rates={p.name: method.rate(assembled.config, p.name) for p in trainable.parameters},
    )
    plan.recompute(net, assembled.loaded.sites, config.parallel.recompute)
    if layout.pp > 1:
        return PipelineStep(
            total,
            optimizer,
            stages=layout.pp,
            micro_batches=layout.micro_batches,
            copies=layout.dp * layout.tp,
            split_state=layout.zero > 0,
            clip=optim.clip,
            loss_scale=device.loss_scale,
        )
    return TrainStep(
        total,
        optimizer,
        accumulate=config.train.accumulate,
        clip=optim.clip,
        loss_scale=device.loss_scale,
        hook=hook,
        # Where operators are split MindSpore's own passes sum over the ranks.
        reduce=SumOverRanks(trainable.parameters) if layout.dp > 1 and not layout.split else None,
    )


def lay_out_loss(
    config: RunConfig, assembled: Assembled, trainable: Trainable, total_steps: int, layout: Layout
) -> tuple[Any, Any]:
    """(the loss of the net, laid out over the ranks; what the method does at each update, or None). Raises ConfigError for what cannot
    be split."""
    _check_layout(config, layout)
    method, net = assembled.method, assembled.loaded.net
    loss = SupervisedLoss(net)
    hook = method.hook(net, assembled.config, trainable.parameters, total_steps)
    total = method.wrap_loss(loss, net, assembled.config)
    if layout.split:
        if hook is not None:
            raise ConfigError(
                f"--parallel {layout}: {method.name} weighs whole matrices at each update, which no rank holds",
                hint="Use dp alone.",
            )
        if total is not loss:
            raise ConfigError(
                f"--parallel {layout}: {method.name} compares two whole distributions of each row, which the ranks hold in slices",
                hint="Use dp alone.",
            )
        plan.apply(net, assembled.loaded.sites, layout, loss)
    return total, hook


def _check_layout(config: RunConfig, layout: Layout) -> None:
    accumulate = config.train.accumulate
    if layout.pp > 1 and accumulate > 1:
        raise ConfigError(
            f"--accumulate {accumulate}: a pipeline adds up its micro-batches instead",
            hint=f"Give a --batch-size {accumulate} times as large, and as many more micro_batches.",
        )
