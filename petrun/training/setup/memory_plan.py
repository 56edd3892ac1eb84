"""Plans the peak memory of a run from its settings, without weights: see petrun.parallel.memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from petrun import kernels
from petrun.config.schema import RunConfig
from petrun.delta import find_method
from petrun.delta.method import same_loss
from petrun.inference.assembly import Assembled
from petrun.models.factory import is_factory
from petrun.parallel.context import Device
from petrun.parallel.layout import Layout
from petrun.parallel.memory.plan import MemoryPlan, StepSettings, plan_memory
from petrun.parallel.memory.recorder import UnknownCellError
from petrun.training.setup.outline import outline_run

_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class UnknownMemoryError(Exception):
    """No memory plan can be made; the text is the reason."""


@dataclass(frozen=True, kw_only=True)
class RunMemory:
    """A net without values, and the settings of its step: plans of the run and of others like it."""

    assembled: Assembled
    settings: StepSettings
    layout: Layout

    def plan(self, *, layout: Layout | None = None, **changes: object) -> MemoryPlan:
        """Return the plan, with other settings of the step or another layout. Raises UnknownMemoryError."""
        loaded = self.assembled.loaded
        settings = replace(self.settings, **changes)  # type: ignore[arg-type]
        try:
            return plan_memory(loaded.net, loaded.sites, layout or self.layout, settings)
        except UnknownCellError as error:
            raise UnknownMemoryError(f"the plan does not know the memory of a {error}") from error


def memory_of(
    config: RunConfig, device: Device, layout: Layout, tokens: int, classes: int | None, target_tokens: int = 0
) -> RunMemory:
    """Return what plans the memory of micro-batches of so many tokens; of an encoder-decoder these are those of the sources, and
    `target_tokens` (0: as many) those of the targets. Raises UnknownMemoryError."""
    if is_factory(config.model.family):
        raise UnknownMemoryError(f"the plan does not know the net of --model {config.model.family}")
    method = find_method(config.algo)
    if method.wrap_loss is not same_loss:
        raise UnknownMemoryError(f"the plan does not know the loss of --algo {config.algo}")
    ascend = device.target == "ascend"
    if not ascend and not kernels.status().fused:
        raise UnknownMemoryError("the plan of the CPU is of petrun's C++ operators, which are not used here")
    model = config.model.model_copy(update={"dtype": device.compute_dtype})
    assembled = outline_run(config.model_copy(update={"model": model}), classes)
    settings = StepSettings(
        rows=config.train.batch_size,
        tokens=tokens,
        target_tokens=(target_tokens or tokens) if assembled.loaded.is_encoder_decoder else 0,
        ascend=ascend,
        fused=not ascend,
        item_bytes=_ITEM_BYTES[device.compute_dtype],
        accumulate=config.train.accumulate > 1,
        recompute=config.parallel.recompute,
        offload=config.parallel.offload == "optimizer",
        decays=config.optim.weight_decay > 0,
    )
    return RunMemory(assembled=assembled, settings=settings, layout=layout)
