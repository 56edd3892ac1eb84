"""Plan the peak memory of a training step on the fullest rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from petrun.console import bytes_text
from petrun.graph.sites import Sites, fits
from petrun.parallel.layout import Layout
from petrun.parallel.memory import deltas, kernels, nets
from petrun.parallel.memory.recorder import Rank, Recorder, UnknownCellError, stored_bytes
from petrun.parallel.memory.tape import Replay, Usage, Value
from petrun.train.optimizers import DEFAULT_OPTIMIZER, OPTIMIZERS
from petrun.typing import Cell

_MIB = 2**20
PROCESS_BYTES = 645 * _MIB
"""Of a process on the CPU that trains: Python, MindSpore and petrun with their libraries."""
OPERATOR_BYTES = 304_000
"""Of a compiled graph, for each operator of the forward pass and for each of the backward pass."""
UPDATE_BYTES = 420_000
"""Of the graph of the update, for each trained parameter. These three were fitted to the ten jobs of scripts/bench/memory.py."""
CELLS = {**kernels.CELLS, **deltas.CELLS, **nets.CELLS}
PARTS = ("weights", "optimizer", "gradients", "activations", "loss", "workspace", "process")


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What decides a step's memory besides the net and its layout."""

    rows: int
    """Of a micro-batch on one data-parallel rank; of a pipeline the rows that its micro-batches share."""
    tokens: int
    target_tokens: int = 0
    """Of an encoder-decoder: those that its decoder is given of each row."""
    ascend: bool
    fused: bool = False
    """The CPU computes with petrun's C++ operators."""
    item_bytes: int = 4
    """Bytes of a value of the compute dtype."""
    accumulate: bool = False
    recompute: str = "none"
    offload: bool = False
    """The optimizer's state is kept in the host's memory."""
    decays: bool = True
    """The optimizer decays weights."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes of a rank's parts when it holds the most."""

    weights: int
    optimizer: int
    gradients: int
    activations: int
    loss: int
    workspace: int
    process: int = 0
    """Of the CPU: the program, its libraries and the compiled graph."""
    moment: str = "the backward pass"

    @property
    def total(self) -> int:
        return sum(getattr(self, part) for part in PARTS)

    def __str__(self) -> str:
        """`1.2 GiB in the backward pass: weights 0.3 GiB + ...`, parts under a thousandth left out."""
        parts = [
            f"{part} {bytes_text(getattr(self, part))}" for part in PARTS if getattr(self, part) >= self.total / 1000
        ]
        return f"{bytes_text(self.total)} in {self.moment}: {' + '.join(parts)}"


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a rank holds of the net's parameters."""

    bytes: int
    trained: int
    """Values that it trains."""
    decayed: int
    """Those of them that are decayed."""
    largest: int
    """Values of the largest parameter that it trains."""
    parameters: int
    """The number of parameters that it trains."""


def plan_memory(net: Cell, sites: Sites, layout: Layout, settings: StepSettings) -> MemoryPlan:
    """Return the plan of the fullest rank. Raises UnknownCellError for a net or a method whose cells it does not know."""
    plans = [plan_stage(net, sites, layout, settings, stage) for stage in range(layout.pp)]
    return max(plans, key=lambda plan: plan.total)


def plan_stage(net: Cell, sites: Sites, layout: Layout, settings: StepSettings, stage: int) -> MemoryPlan:
    """Return the plan of a rank of one stage."""
    rank = Rank(
        ascend=settings.ascend,
        fused=settings.fused,
        layout=layout,
        stage=stage,
        recompute=settings.recompute,
        item_bytes=settings.item_bytes,
    )
    recorder = Recorder(net, sites, rank, CELLS)
    rows = max(1, settings.rows // layout.micro_batches)
    lengths = [settings.tokens, *([settings.target_tokens] if settings.target_tokens else [])]
    out = recorder.run(net, *(Value(shape=(rows, length), item_bytes=4) for length in lengths))
    if recorder.is_last:
        flat = recorder.tape.view(out, (prod(out.shape[:-1]), out.shape[-1]))
        kernels.cross_entropy(recorder, flat)
    held = held_values(net, sites, recorder)
    state = 0 if settings.offload else OPTIMIZERS[DEFAULT_OPTIMIZER].state_bytes * held.trained
    # The accumulated gradients, and the zeros that clear them, which MindSpore makes before all else.
    sums = 8 * held.trained if settings.accumulate or layout.pp > 1 else 0
    usage = Replay(recorder.tape).run()
    # A stage keeps the activations of as many micro-batches as stages follow it, itself included.
    waiting = min(layout.micro_batches, layout.pp - stage) - 1
    plans = [backward_plan(usage, waiting, sums), update_plan(held, settings, sums)]
    if recorder.mask_bytes and settings.ascend:
        drawn = sum(recorder.mask_bytes) + 2 * max(recorder.mask_bytes)
        plans.append(_part_plan(gradients=sums, workspace=drawn, moment="drawing the masks of dropout"))
    fullest = max(plans, key=lambda plan: plan.total)
    return replace(
        fullest,
        weights=fullest.weights + held.bytes,
        optimizer=state,
        workspace=fullest.workspace + recorder.index_bytes + recorder.packed_bytes,
        process=0 if settings.ascend else process_bytes(recorder, held, settings),
    )


def backward_plan(usage: Usage, waiting: int, sums: int) -> MemoryPlan:
    """Return the plan of the moment at which the backward pass holds the most. `sums`: bytes of accumulated gradients."""
    peak = usage.peak
    kept = {part: usage.kept.get(part, 0) * waiting for part in ("activations", "loss")}
    return _part_plan(
        weights=peak.get("weights", 0),
        gradients=peak.get("gradients", 0) + sums,
        activations=peak.get("activations", 0) + kept["activations"],
        loss=peak.get("loss", 0) + kept["loss"],
        workspace=peak.get("workspace", 0),
        moment="the backward pass",
    )


def update_plan(held: Held, settings: StepSettings, sums: int) -> MemoryPlan:
    """Return the plan of the update, when all gradients are there.

    On Ascend all decayed weights are as well before the first parameter moves. On the CPU a C++ operator moves them in place; the most is
    held when the norm squares the largest gradient.
    """
    decayed = held.decayed if settings.decays else 0
    beside = decayed if settings.ascend else held.largest
    return _part_plan(gradients=4 * held.trained + sums, workspace=4 * beside, moment="the update")


def process_bytes(recorder: Recorder, held: Held, settings: StepSettings) -> int:
    """Return the bytes of a process on the CPU without its tensors. A micro-batch that only accumulates has a graph of its own."""
    operators = recorder.tape.operators
    count = len(operators) + sum(operator.out.needs_gradient for operator in operators)
    graphs = 2 if settings.accumulate else 1
    return PROCESS_BYTES + graphs * OPERATOR_BYTES * count + UPDATE_BYTES * held.parameters


def _part_plan(
    weights: int = 0, gradients: int = 0, activations: int = 0, loss: int = 0, workspace: int = 0, moment: str = ""
) -> MemoryPlan:
    return MemoryPlan(
        weights=weights,
        optimizer=0,
        gradients=gradients,
        activations=activations,
        loss=loss,
        workspace=workspace,
        moment=moment,
    )


def held_values(net: Cell, sites: Sites, recorder: Recorder) -> Held:
    """Count what the recorder's rank holds of the parameters."""
    total = 0
    counts, decayed = [], 0
    layers = _stage_of(net, sites, recorder)
    for parameter in net.get_parameters():
        stages = layers.get(id(parameter), set())
        if recorder.rank.stage not in stages:
            continue
        count = prod(recorder.split_state(recorder.shapes[id(parameter)]))
        total += count * stored_bytes(parameter)
        if parameter.requires_grad:
            counts.append(count)
            decayed += count if parameter.ndim > 1 else 0
    return Held(
        bytes=total, trained=sum(counts), decayed=decayed, largest=max(counts, default=0), parameters=len(counts)
    )


def _stage_of(net: Cell, sites: Sites, recorder: Recorder) -> dict[int, set[int]]:
    """Return id of a parameter -> the stages that hold it: see parallel.stages."""
    stages = recorder.layout.pp
    layers = [path for path, _ in net.cells_and_names() if fits(sites.blocks, path)]
    found: dict[int, set[int]] = {}
    layer = -1
    for path, cell in net.cells_and_names():
        layer = layers.index(path) if path in layers else layer
        inside = layer >= 0 and f"{path}.".startswith(f"{layers[layer]}.")
        stage = layer * stages // len(layers) if inside else 0 if layer < 0 else stages - 1
        for parameter in cell.get_parameters(expand=False):
            found.setdefault(id(parameter), set()).add(stage)
    return found


__all__ = ["MemoryPlan", "StepSettings", "UnknownCellError", "plan_memory"]
