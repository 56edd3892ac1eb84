"""Refuses a run that cannot fit into memory, and names settings with which it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from petrun.cluster.processes.memory import available_bytes
from petrun.console import bytes_text
from petrun.errors import ConfigError
from petrun.parallel.context import Device
from petrun.parallel.layout import Layout
from petrun.parallel.memory.plan import MemoryPlan
from petrun.parallel.validate import divisors, layouts
from petrun.training.setup.memory_plan import RunMemory, UnknownMemoryError, memory_of
from petrun.training.setup.outline import sizes_of
from petrun.training.setup.resolve import ResolvedRun

ERROR = 0.1
"""The share by which the plan may be too high: less than what is there by so much is not refused."""
LARGEST_CARD = 64 * 2**30
"""Of the Ascend 910B's two sizes. A run that fits on neither is refused, as no run asks a card for its size."""


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """Settings with which a run fits, as the user types them, and what it needs then."""

    flags: str
    why: str
    """What these settings change, and what they cost."""
    plan: MemoryPlan

    @property
    def bytes(self) -> int:
        return self.plan.total


def check_memory(resolved: ResolvedRun, ranks_here: int) -> str:
    """Return what the run needs on each rank, or why that is not known.

    Raises ConfigError, unless the user says not to, where it is more than there is; on the CPU `ranks_here` share the machine's memory.
    """
    try:
        memory = memory_of_run(resolved)
        plan = memory.plan()
    except UnknownMemoryError as error:
        return f"not planned: {error}"
    available = available_memory(resolved.device, ranks_here)
    if available is None or not resolved.config.memory_check or not too_much(plan, available):
        return str(plan)
    found = next(fitting(resolved, memory, available), None)
    way_out = (
        f"Give {found.flags}: {bytes_text(found.bytes)}"
        if found
        else "No batch, recompute or layout fits: train less of it"
    )
    raise ConfigError(
        f"the run needs about {plan}; on each rank there are {bytes_text(available)}",
        hint=f"{way_out}. --no-memory-check starts it all the same.",
    )


def memory_of_run(resolved: ResolvedRun) -> RunMemory:
    """Return what plans the memory of a run. Raises UnknownMemoryError where no plan can be made."""
    if resolved.start is not None:
        raise UnknownMemoryError("the plan does not know a run that starts from another delta")
    rows = resolved.sources.train
    tokens = max(resolved.batching.buckets, default=0)
    target_tokens = max(resolved.batching.target_buckets, default=0)
    return memory_of(resolved.config, resolved.device, resolved.layout, tokens, rows.num_labels, target_tokens)


def too_much(plan: MemoryPlan, available: int) -> bool:
    """Return whether a plan cannot fit, even if it is too high by the largest error."""
    return plan.total * (1 - ERROR) > available


def available_memory(device: Device, ranks_here: int) -> int | None:
    """Return the bytes that each rank may take; None where the system does not say. On the CPU `ranks_here` share the machine's."""
    if device.target == "ascend":
        return LARGEST_CARD
    found = available_bytes()
    return None if found is None else found // ranks_here


def fitting(resolved: ResolvedRun, memory: RunMemory, available: int) -> Iterator[Fitting]:
    """Yield the settings that fit, in this order: a smaller micro-batch with as many more to a step; what is computed again; the
    optimizer's state, then the weights, split; more tensor or pipeline parallel ranks; at last a micro-batch of one row and all layers
    computed again."""
    for flags, why, changes in _candidates(resolved):
        plan = memory.plan(**changes)
        if plan.total <= available:
            yield Fitting(flags=flags, why=why, plan=plan)


def _candidates(resolved: ResolvedRun) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (flags, why, changes of the plan)."""
    config, layout = resolved.config, resolved.layout
    rows, accumulate = config.train.batch_size, config.train.accumulate
    smaller = [count for count in reversed(divisors(rows)) if count < rows] if layout.pp == 1 else []

    def batch(count: int) -> str:
        return f"--batch-size {count} --accumulate {accumulate * rows // count}"

    def rows_why(count: int) -> str:
        instead = f"activations of {count} row{'s' * (count > 1)} instead of {rows}"
        return f"{instead}; a step adds up {accumulate * rows // count} batches and learns the same"

    for count in smaller:
        yield batch(count), rows_why(count), {"rows": count, "accumulate": True}
    if resolved.device.target != "ascend":
        return
    for how in ("select", "full"):
        yield f"--recompute {how}", _RECOMPUTED[how], {"recompute": how}
    for other in _layouts(resolved):
        yield f"--parallel {other}", _layout_why(other, layout), {"layout": other}
    if smaller:
        changes = {"rows": 1, "accumulate": True, "recompute": "full"}
        yield f"{batch(1)} --recompute full", f"{rows_why(1)}; {_RECOMPUTED['full']}", changes


_RECOMPUTED = {
    "select": "activations inside each layer are computed again in the backward pass, at a cost in time",
    "full": "of each layer only its input is kept; the layer is computed again in the backward pass, at a cost in time",
}


def _layout_why(other: Layout, layout: Layout) -> str:
    """Return what a layout splits that the run's own does not."""
    parts = {
        f"each layer is split over {other.tp} ranks": other.tp > layout.tp,
        f"the layers are spread over {other.pp} stages": other.pp > layout.pp,
        "the dp ranks split the optimizer's state": other.zero in (1, 2) and other.zero > layout.zero,
        "the dp ranks split weights, gradients and the optimizer's state": other.zero == 3 and layout.zero < 3,
    }
    return ", ".join(text for text, holds in parts.items() if holds) + "; the ranks exchange more"


def _layouts(resolved: ResolvedRun) -> Iterator[Layout]:
    """Yield other layouts of as many ranks, those that change the least first."""
    config, layout = resolved.config, resolved.layout
    if layout.dp > 1:
        yield from (replace(layout, zero=zero) for zero in (1, 3) if zero > layout.zero)
    tokens = max(resolved.batching.buckets, default=0)
    found = layouts(layout.world, sizes_of(config), config.train.batch_size, tokens)
    yield from (other for other in found if other.tp * other.pp > layout.tp * layout.pp)
