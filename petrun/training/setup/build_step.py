"""Builds the training step: loss, learning-rate schedule, optimizer, and their layout over ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from petrun.config.schema import OptimConfig, RunConfig
from petrun.data.tasks import IMAGE, PREFERENCE
from petrun.delta.method import StepHook
from petrun.errors import ConfigError
from petrun.graph.freeze import Trainable
from petrun.graph.step_counts import step_count
from petrun.inference.assembly import (
    Assembled,
)
from petrun.models.base import LoadedModel
from petrun.parallel import plan
from petrun.parallel.context import Device, stage_here
from petrun.parallel.layout import Layout
from petrun.parallel.reduce import SumOverRanks
from petrun.train.loop import Plan
from petrun.train.loss import SupervisedLoss
from petrun.train.optimizers import DEFAULT_OPTIMIZER, OPTIMIZERS
from petrun.train.pipelined import PipelineStep, Stage
from petrun.train.schedules import SCHEDULES, Schedule
from petrun.train.step import TrainStep
from petrun.training.setup.diffusion import build_diffusion_loss
from petrun.training.setup.preference import build_preference_loss
from petrun.typing import Cell


def plan_schedule(optim: OptimConfig, plan: Plan, default_lr: float) -> Schedule:
    """Plan the learning rate over the run, with the user's peak or else the method's own."""
    warmup = optim.warmup if optim.warmup is not None else SCHEDULES[optim.schedule].default_warmup
    return Schedule(
        kind=optim.schedule,
        peak=optim.lr if optim.lr is not None else default_lr,
        warmup_steps=step_count(warmup, plan.total_steps),
        total_steps=plan.total_steps,
        min_ratio=optim.min_lr_ratio,
    )


def build_step(
    config: RunConfig, assembled: Assembled, trainable: Trainable, schedule: Schedule, device: Device, layout: Layout
) -> TrainStep:
    """Build the step of this rank, with its optimizer."""
    optim, method, net = config.optim, assembled.method, assembled.loaded.net
    # Before the optimizer, whose state is sharded as the parameters are.
    total, hook = build_loss(config, assembled, trainable, schedule.total_steps, layout)
    kind = OPTIMIZERS[DEFAULT_OPTIMIZER]
    optimizer = (kind.host_cell if config.parallel.offload == "optimizer" else kind.cell)(
        trainable.parameters,
        schedule,
        **_numbers(optim),
        decay_all=optim.decay_all,
        rates={p.name: method.rate(assembled.config, p.name) for p in trainable.parameters},
    )
    plan.recompute(net, assembled.loaded.sites, config.parallel.recompute)
    if layout.pp > 1:
        return PipelineStep(
            total,
            optimizer,
            stage=Stage(
                index=stage_here(layout), count=layout.pp, copies=layout.dp * layout.tp, splits_state=layout.zero > 0
            ),
            micro_batches=layout.micro_batches,
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


def set_numbers(step: TrainStep, optim: OptimConfig, schedule: Schedule) -> None:
    """Give a step that is built, and may be compiled, the numbers of another run, with which it computes what that run's own step would.

    Raises ValueError for a schedule of another kind, or where one of both runs does not clip: those are other graphs.
    """
    step.optimizer.rate.set_schedule(schedule)
    step.optimizer.set_numbers(**_numbers(optim))
    step.clipping.set_clip(optim.clip)


def _numbers(optim: OptimConfig) -> dict[str, float]:
    return {name: getattr(optim, name) for name in ("beta1", "beta2", "eps", "weight_decay")}


def _supervised(config: RunConfig, loaded: LoadedModel, layout: Layout) -> Cell:
    return SupervisedLoss(loaded.net)


_LOSSES: Mapping[str, Callable[[RunConfig, LoadedModel, Layout], Cell]] = {
    PREFERENCE: build_preference_loss,
    IMAGE: build_diffusion_loss,
}
"""The losses of tasks that have one of their own."""


def build_loss(
    config: RunConfig, assembled: Assembled, trainable: Trainable, total_steps: int, layout: Layout
) -> tuple[Cell, StepHook | None]:
    """Return (the loss of the net, split over the ranks; the method's own step at each update, or None).

    Raises ConfigError for a method whose loss or update cannot be split over ranks.
    """
    _require_no_accumulation(config, layout)
    method, net = assembled.method, assembled.loaded.net
    loss = _LOSSES.get(config.data.task or "", _supervised)(config, assembled.loaded, layout)
    hook = method.hook(net, assembled.config, trainable.parameters, total_steps)
    total = method.wrap_loss(loss, net, assembled.config)
    if layout.split:
        if method.why_not_split:
            raise ConfigError(f"--parallel {layout}: {method.name} {method.why_not_split}", hint="Use dp alone.")
        if hook is not None:
            raise ConfigError(
                f"--parallel {layout}: {method.name} weighs whole matrices at each update, which no rank holds",
                hint="Use dp alone.",
            )
        if total is not loss:
            raise ConfigError(
                f"--parallel {layout}: {method.name} compares two whole distributions of each row, which the ranks hold in shards",
                hint="Use dp alone.",
            )
        plan.apply(net, assembled.loaded.sites, layout, loss)
    return total, hook


def _require_no_accumulation(config: RunConfig, layout: Layout) -> None:
    accumulate = config.train.accumulate
    if layout.pp > 1 and accumulate > 1:
        raise ConfigError(
            f"--accumulate {accumulate}: a pipeline adds up its micro-batches instead",
            hint=f"Give a --batch-size {accumulate} times as large, and as many more micro_batches.",
        )
