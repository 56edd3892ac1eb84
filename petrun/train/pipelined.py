"""The training step of a pipeline: each batch goes through the stages in parts, and their gradients are added up before the update."""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor, nn, ops

from petrun.graph.each import each
from petrun.graph.state import number
from petrun.graph.unpacked import call_with
from petrun.kernels import step_counter
from petrun.train.adamw import AdamW
from petrun.train.clipping import times
from petrun.train.step import TrainStep, added_up, over, widened
from petrun.typing import Cell, Parameter


class Parts(nn.Cell):
    """The loss of the batch, part by part, each over all its targets, scored or not.

    The net is told the number of the part, so that MindSpore keeps a graph of its own for each: of one that all share it would sum the
    gradients over the ranks again for each part.
    Inputs: targets; the net's own inputs, of the whole batch. Returns: () float32, times the loss scale.
    """

    def __init__(self, loss: Cell, count: int, scale: Parameter | None) -> None:
        super().__init__(auto_prefix=False)
        self.loss = loss
        self.count = count
        self.scaled = scale is not None
        self.scale = scale
        self.slice = ops.StridedSlice()
        # By these MindSpore finds where a part ends.
        self.adds = [ops.Add().add_prim_attr("pipeline_end", i) for i in range(count)]

    def part(self, i: int, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Rows of part i."""
        rows: tuple[Tensor, ...] = ()
        for value in values:
            size = value.shape[0] // self.count
            rest = value.shape[1:]
            first = (size * i,) + (0,) * len(rest)
            rows = (*rows, self.slice(value, first, (size * (i + 1), *rest), (1,) * len(value.shape)))
        return rows

    def of(self, i: int, targets: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        own = self.part(i, (targets, *inputs))
        value, _ = self.loss(float(own[0].size), *own, i)
        return value * self.scale if self.scaled else value

    def construct(self, targets: Tensor, *inputs: Tensor) -> Tensor:
        total = self.of(0, targets, inputs)
        for i in range(1, self.count):
            total = self.adds[i](total, self.of(i, targets, inputs))
        return total


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Holds the place of this process in its pipeline."""

    index: int = 0
    count: int
    """Stages of the pipeline."""
    copies: int
    """Ranks of a stage, each of which knows the stage's loss."""
    splits_state: bool
    """Each rank is given its own share of a gradient (zero), already summed."""


class PipelineStep(TrainStep):
    """One whole batch; see TrainStep. What a stage does not hold MindSpore takes out of its graph, the optimizer's part included.

    MindSpore knows the gradients that it adds up by the names `accu_grads.*`, and takes every input of the graph for rows of the batch:
    so the denominator is a parameter, set at each call, as is the loss scale of the parts.
    """

    SUMS = "accu_grads."

    def __init__(
        self,
        loss: Cell,
        optimizer: AdamW,
        *,
        stage: Stage,
        micro_batches: int,
        clip: float = 1.0,
        loss_scale: float | None = None,
    ) -> None:
        super().__init__(loss, optimizer, accumulate=micro_batches, clip=clip, loss_scale=loss_scale)
        self.stages = stage.count
        self.split_state = stage.splits_state
        self.copies = float(stage.copies)
        self.denominator = number("denominator", Tensor(1.0, ms.float32))
        # A copy, as the last stage alone may hold what the parts are scaled by: MindSpore would send it on from the first.
        self.part_scale = number("part_scale", Tensor(1.0, ms.float32))
        # The last stage sends its part of a tied embedding's gradient to the first, and keeps it: the norm counts the sum alone.
        self.tied = tuple(not p.parallel_optimizer for p in optimizer.parameters)
        self.any_tied = any(self.tied)
        self.tied_share = number("tied_share", Tensor(float(stage.index == 0), ms.float32)) if self.any_tied else None
        self.micro_batches = micro_batches
        self.pipeline = Parts(loss, micro_batches, self.part_scale if self.scaled else None)
        self.gradient = ms.value_and_grad(self.pipeline, None, optimizer.parameters)
        self.sum = ops.AllReduce()
        # The whole step trains in MindSpore's eyes, or its passes for pipelines stay away.
        self.set_train(True)

    def __call__(self, update: bool, denominator: Tensor, targets: Tensor, *inputs: Tensor) -> Tensor:
        """As TrainStep is called; `update` is always True."""
        return super().__call__(*self.arguments(update, denominator, targets, *inputs))

    def arguments(
        self, update: bool, denominator: Tensor, targets: Tensor, *inputs: Tensor
    ) -> tuple[Tensor | bool, ...]:
        self.denominator.set_data(denominator)
        if self.scaled:
            self.part_scale.set_data(Tensor(float(self.scale.asnumpy()), ms.float32))
        for stage in range(1, self.stages):
            step_counter(stage).set_data(Tensor(int(step_counter().asnumpy()), ms.int32))
        return targets, *inputs

    def construct(self, targets: Tensor, *inputs: Tensor) -> Tensor:  # type: ignore[override]
        value, grads = call_with(self.gradient, (targets, *inputs))
        # Of each part the loss was divided by how many targets it has.
        factor = float(targets.size // self.micro_batches) / self.denominator
        total = each(widened, grads) if self.split_state else each(added_up, self.sums, grads)
        total = times(total, factor)
        if self.scaled:
            value = value / self.scale
            total = each(ops.partial(over, self.scale), total)
        norm = self.clipping.global_norm(
            each(ops.partial(counted, self.tied_share), total, self.tied) if self.any_tied else total
        )
        return self.finish(self.of_last_stage(value * factor, norm), norm, total)

    def of_last_stage(self, value: Tensor, norm: Tensor) -> Tensor:
        """The loss, which the last stage alone knows; the others have 0. After the norm, so that no rank waits for it with work to do."""
        summed = self.sum(ops.reshape(ops.depend(value, norm), (1,)))
        return ops.reshape(summed, ()) / self.copies


def counted(share: Tensor, grad: Tensor, tied: bool) -> Tensor:
    """A gradient as the norm counts it."""
    return grad * share if tied else grad
