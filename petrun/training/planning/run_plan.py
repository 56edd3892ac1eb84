"""Plan a run: every setting resolved, its net built without values, and what follows from both, as one record."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from petrun.checkpoint.delta import Delta
from petrun.config.resolved import Resolved
from petrun.console import bytes_text
from petrun.data.batches.buckets import padded_tokens
from petrun.graph.freeze import Trainable, trainable_of
from petrun.graph.surgery import cells
from petrun.inference.assembly import Assembled
from petrun.models.factory import is_factory
from petrun.parallel.context import Device
from petrun.parallel.memory.plan import PARTS, MemoryPlan
from petrun.training import plan_text
from petrun.training.preflight.host_facts import DiskFacts, disk
from petrun.training.receipt.receipt import rows, targets
from petrun.training.run_folder import RunFolder
from petrun.training.setup.build_step import build_loss
from petrun.training.setup.memory_check import available_memory, memory_of_run, too_much
from petrun.training.setup.memory_plan import RunMemory, UnknownMemoryError
from petrun.training.setup.outline import outline_run
from petrun.training.setup.resolve import ResolvedRun, resolve
from petrun.training.setup.training_setup import build_training
from petrun.typing import JsonObject

_LAYER_SECONDS = {"classify": 0.9, "lm": 1.3, "instruct": 1.3}
"""Seconds in which MindSpore compiles one layer of a step on two quiet cores, by task: docs/performance.md, "Compile time"."""


@dataclass(frozen=True, kw_only=True)
class LayerGroup:
    """Layers of one kind that the method adapts, such as all `layers.*.attn.q`."""

    pattern: str
    """Their path, with * for the number of the layer."""
    count: int
    inputs: int | None
    outputs: int | None
    """Of one layer's matrix; None where it has none of two axes."""
    trained: int
    """Values that train in one of them."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A run as it would be trained."""

    resolved: ResolvedRun
    assembled: Assembled
    trainable: Trainable
    groups: tuple[LayerGroup, ...]
    memory: RunMemory | None
    """What plans its memory, and other settings of it; None where that is not known."""
    needed: MemoryPlan | None
    unknown: str
    """Why the memory is not known; "" where it is."""
    available: int | None
    """Bytes that each rank may take; None where nothing says so."""
    disk: DiskFacts
    problem: str
    """Why the run could not work as it is; "" where nothing speaks against it."""

    @property
    def compile_seconds(self) -> float:
        """An estimate for the first start, of all shapes of the first epoch; later starts load what was compiled."""
        layers = len(
            {path.rpartition(".")[0] for path, _ in self.assembled.loaded.net.cells_and_names() if _numbered(path)}
        )
        task = self.resolved.sources.train.task
        return _LAYER_SECONDS.get(task, 1.3) * max(1, layers) * len(self.shapes)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return plan_text.shapes_of(self.resolved.config, self.resolved.batching, self.resolved.layout)

    @property
    def memory_line(self) -> str:
        if self.needed is None:
            return f"not planned: {self.unknown}"
        there = "" if self.available is None else f"; there are {bytes_text(self.available)}"
        return f"{self.needed}{there}"

    def content(self) -> JsonObject:
        """Return the plan as values for JSON."""
        resolved, trainable = self.resolved, self.trainable
        config, layout = resolved.config, resolved.layout
        loaded, sources = self.assembled.loaded, resolved.sources
        folder, files = plan_text.files_of(resolved)
        sets = {"train": sources.train} | ({} if sources.evaluation is None else {"eval": sources.evaluation})
        return {
            "model": {
                "family": loaded.family,
                "model_type": loaded.model_type,
                "base": config.model.base,
                "parameters": trainable.all_values,
                "compute_dtype": resolved.device.compute_dtype,
                "device": resolved.device.target,
            },
            "delta": {
                "algo": self.assembled.method.name,
                "settings": self.assembled.config.model_dump(mode="json"),
                "trained": trainable.trained_values,
                "share": trainable.share,
                "beside": list(self.assembled.heads),
                "targets": targets(self.assembled),
                "layers": [asdict(group) for group in self.groups],
            },
            "data": {name: rows(found, config.data.seq_len) for name, found in sets.items()},
            "batches": batches_of(resolved),
            "shapes": {
                "first_epoch": [list(shape) for shape in self.shapes],
                "padding": resolved.batching.padding(),
                "compile_seconds": self.compile_seconds,
            },
            "rate": asdict(resolved.schedule),
            "memory": {
                "bytes": None if self.needed is None else self.needed.total,
                "moment": None if self.needed is None else self.needed.moment,
                "parts": {} if self.needed is None else {part: getattr(self.needed, part) for part in PARTS},
                "available": self.available,
                "unknown": self.unknown,
            },
            "layout": {**asdict(layout), "ranks": layout.world},
            "files": {"folder": folder, "names": files, "disk": dict(self.disk)},
            "settings": settings_of(resolved.settings),
            "problem": self.problem,
        }


def plan_run(
    given: Resolved, start: Delta | None, device: Device, cards: int, *, out: RunFolder, limit: int | None = None
) -> RunPlan:
    """Plan a run of so many ranks. `limit`: bytes that each rank may take; None: what the device has.

    Reads what `resolve` reads. Weights are read only for a net of the user's own and for a run that starts from a delta. Raises PetrunError
    for what no setting of memory can mend: settings, rows, targets, a layout that does not divide, a method that finds the run too short.
    """
    resolved = resolve(given, start, device, cards, out)
    assembled, trainable = _net_of(resolved)
    memory, needed, unknown = None, None, ""
    try:
        memory = memory_of_run(resolved)
        needed = memory.plan()
    except UnknownMemoryError as error:
        unknown = str(error)
    here = cards if device.target == "cpu" else 1
    available = limit if limit is not None else available_memory(device, here)
    place = disk(resolved.config, out.path)
    return RunPlan(
        resolved=resolved,
        assembled=assembled,
        trainable=trainable,
        groups=tuple(_groups(assembled, trainable)),
        memory=memory,
        needed=needed,
        unknown=unknown,
        available=available,
        disk=place,
        problem=_problem(needed, available, place, strict=limit is not None),
    )


def _net_of(resolved: ResolvedRun) -> tuple[Assembled, Trainable]:
    """Return the net with its delta, without values where that is possible, and what trains."""
    config, layout = resolved.config, resolved.layout
    if resolved.start is not None or is_factory(config.model.family):
        setup = build_training(resolved, scored=False, trains=False)
        return setup.assembled, setup.trainable
    assembled = outline_run(config, resolved.sources.train.num_labels)
    trainable = trainable_of(assembled.loaded.net)
    # A method may find the run too short for it, or the layout not possible. It changes the net, so it gets one of its own.
    other = outline_run(config, resolved.sources.train.num_labels)
    build_loss(config, other, trainable_of(other.loaded.net), resolved.schedule.total_steps, layout)
    return assembled, trainable


def _problem(needed: MemoryPlan | None, available: int | None, place: DiskFacts, *, strict: bool) -> str:
    """Return why the run could not work. `strict`: the user said how much memory there is; else the plan may be too high by its error."""
    problems = []
    if (
        needed is not None
        and available is not None
        and (needed.total > available if strict else too_much(needed, available))
    ):
        problems.append(
            f"it needs about {bytes_text(needed.total)} on each rank, where there are {bytes_text(available)}"
        )
    if place["free"] < place["needed"]:
        free, wanted = bytes_text(place["free"]), bytes_text(place["needed"])
        problems.append(f"it writes about {wanted} under {place['place']}, where {free} are free")
    return "; ".join(problems)


def _groups(assembled: Assembled, trainable: Trainable) -> Iterable[LayerGroup]:
    """Yield the layers that the method adapts, those that differ in their number alone together."""
    table = cells(assembled.loaded.net)
    found: dict[tuple[str, int | None, int | None, int], int] = {}
    for path in assembled.layers:
        own = sum(p.size for p in trainable.parameters if p.name.startswith(f"{path}."))
        weight = getattr(table.get(path), "weight", None)
        shape = tuple(weight.shape) if weight is not None and len(weight.shape) == 2 else (None, None)
        key = (re.sub(r"\.\d+\.", ".*.", path), shape[1], shape[0], own)
        found[key] = found.get(key, 0) + 1
    for (pattern, inputs, outputs, own), count in found.items():
        yield LayerGroup(pattern=pattern, count=count, inputs=inputs, outputs=outputs, trained=own)


def _numbered(path: str) -> bool:
    return re.fullmatch(r"(?:\w+\.)*\d+\.\w+", path) is not None


def batches_of(resolved: ResolvedRun) -> JsonObject:
    """Return the batch arithmetic: rows and tokens of a step, and of the run."""
    config, plan, layout, found = resolved.config, resolved.plan, resolved.layout, resolved.sources.train
    rows_per_step = config.train.batch_size * layout.dp * plan.accumulate
    epochs = plan.total_micro_batches / plan.micro_batches_per_epoch
    tokens = resolved.batching.tokens
    padded = padded_tokens(resolved.batching.epoch(0).shapes)
    return {
        "rows": len(found),
        "batch_size": config.train.batch_size,
        "dp": layout.dp,
        "accumulate": plan.accumulate,
        "rows_per_step": rows_per_step,
        "batches_per_epoch": plan.micro_batches_per_epoch,
        "steps": plan.total_steps,
        "epochs": epochs,
        "tokens_per_epoch": tokens,
        "padded_tokens_per_epoch": padded,
        "tokens_per_step": tokens * epochs / plan.total_steps,
        "tokens": tokens * epochs,
        "supervised_share": found.stats.supervised / found.stats.tokens if found.stats.tokens else None,
    }


def settings_of(settings: Resolved) -> JsonObject:
    """Return every setting by its dotted key: its value, and where it came from."""
    found: JsonObject = {}
    for section, content in settings.config.model_dump(mode="json").items():
        for leaf, value in content.items() if isinstance(content, dict) else [("", content)]:
            key = f"{section}.{leaf}" if leaf else section
            found[key] = {"value": value, "origin": settings.origins.get(key, "default")}
    return found
