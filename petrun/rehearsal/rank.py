"""Rehearse one rank in a process of its own: `python -m petrun.rehearsal.rank FOLDER RANK`.

Reads FOLDER/job.json, compiles this rank's training step with MindSpore's Ascend front end, and writes FOLDER/rank_N.json.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Collection, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from petrun.checkpoint.delta import Delta
from petrun.cluster.world import join
from petrun.config.schema import RunConfig
from petrun.errors import PetrunError
from petrun.inference.assembly import base_path, config_file, fit_delta, form_to_make
from petrun.models.base import DECODER_INPUTS, LoadedModel
from petrun.models.factory import ModelSource, outline_model
from petrun.parallel import context
from petrun.parallel.context import Device, split_operators
from petrun.parallel.front_end import FRONT_END_ERRORS
from petrun.parallel.layout import Layout
from petrun.parallel.sharding import shard_layouts
from petrun.rehearsal.graphs import collectives, gradient_sums
from petrun.rehearsal.job import JOB_FILE, STRATEGY_FILE, RankJob, read_settings
from petrun.rehearsal.rank_result import HeldState, RankResult
from petrun.rehearsal.rank_state import write_compiled
from petrun.rehearsal.shapes import BatchShapes, open_base_tokenizer
from petrun.rehearsal.step_graph import export_step
from petrun.tensors.sharded.strategy_file import write_items
from petrun.train.pipelined import PipelineStep
from petrun.train.step import TrainStep
from petrun.training.setup.attach_method import attach_method
from petrun.training.setup.build_step import build_step, plan_schedule
from petrun.training.setup.resolve_layout import resolve_layout
from petrun.training.setup.starting_delta import resolve_start, resolve_text
from petrun.typing import Cell, Parameter


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    job = RankJob.read(folder / JOB_FILE)
    outcome: Mapping[str, object]
    try:
        outcome = _rehearse(job, folder / f"rank_{rank}")
    except PetrunError as error:
        outcome = {"refused": {"kind": type(error).__name__, "message": error.message, "hint": error.hint}}
    (folder / f"rank_{rank}.json").write_text(json.dumps(outcome), encoding="utf-8")


def _rehearse(job: RankJob, graphs: Path) -> Mapping[str, object]:
    """Compile the step. Returns the RankResult, or the error of MindSpore's front end. Raises PetrunError."""
    resolved, start = read_settings(job.recipe, job.flags, job.sets)
    config = resolved.config
    device = context.setup("ascend", config.model.dtype, config.train.loss_scale)
    world = join(device.target)
    layout = resolve_layout(config, world.size)
    strategy = graphs / "strategy.ckpt" if job.writes_strategy else None
    if layout.split:
        split_operators(layout, world.rank, strategy)
    began = time.perf_counter()
    loaded = _outline(config, device, job.shapes, start)
    resolved = resolve_text(resolved, open_base_tokenizer(config))
    resolved, starting = resolve_start(resolved, start, lambda delta, alpha: fit_delta(delta, loaded, alpha))
    config = resolved.config
    assembled, trainable = attach_method(config, loaded, starting)
    schedule = plan_schedule(config.optim, job.shapes.plan(config.train.accumulate), assembled.method.default_lr)
    step = build_step(config, assembled, trainable, schedule, device, layout)
    loaded.net.set_train(True)
    full = {p.name: tuple(p.shape) for p in loaded.net.get_parameters()}
    numbers = _numbers(step, full)
    inputs = step_inputs(loaded, job.shapes, layout)
    # MindSpore writes files into the current folder while it compiles. All files that the user named have been read.
    os.chdir(graphs)
    built = time.perf_counter()
    try:
        if job.level == 0:
            step.compile(*step.arguments(True, *inputs))
        else:
            step(True, *inputs)
    except FRONT_END_ERRORS as error:
        return {"failed": str(error), "traceback": traceback.format_exc()}
    compiled = time.perf_counter()
    stage, row, column = layout.coordinates(world.rank)
    if strategy is not None:
        write_items(graphs / STRATEGY_FILE, shard_layouts(step, strategy, layout), [stage])
    if job.steps:
        _export(step, inputs, graphs, numbers)
    held = set(getattr(step, "parameter_layout_dict", None) or full) if layout.split else set(full)
    # A rank does not hold the weights of other pipeline stages, nor their state.
    own = {p.name: p for p in step.get_parameters() if p.name in held or (p.name not in full and layout.pp == 1)}
    texts = [path.read_text(errors="replace") for path in sorted(graphs.rglob("*validate*.ir"))]
    result: RankResult = {
        "rank": world.rank,
        "place": {"stage": stage, "row": row, "column": column},
        **_held(full, own, {p.name for p in step.optimizer.on_host}),
        "summed_twice": sorted(name for name, n in gradient_sums(texts).items() if n > 1) if layout.pp > 1 else [],
        "collectives": {name: {"count": n, "bytes": size} for name, (n, size) in collectives(texts).items()},
        "peak_bytes": int(ms.runtime.max_memory_allocated()) if job.level else None,
        "build_seconds": round(built - began, 2),
        "compile_seconds": round(compiled - built, 2),
        "host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "values": trainable.all_values,
        "trained_values": trainable.trained_values,
        "method": assembled.method.name,
        "dtype": device.compute_dtype,
    }
    return result


def _export(step: TrainStep, inputs: tuple[Tensor, ...], folder: Path, numbers: Mapping[str, float]) -> None:
    """Write the compiled graph, and where gradients are accumulated that of a micro-batch without an update.

    MindSpore writes the strategy anew for that one, without the optimizer: it has to be read before.
    """
    update = export_step(step)
    if not step.accumulate or isinstance(step, PipelineStep):
        write_compiled(folder, update, None, numbers)
        return
    known = set(step.compile_cache)
    step.compile(*step.arguments(False, *inputs))
    write_compiled(folder, update, export_step(step, known), numbers)


def _numbers(step: Cell, full: Collection[str]) -> dict[str, float]:
    """Return the values of the step's own parameters that are one number: the loss scale, the counters."""
    return {p.name: p.asnumpy().item() for p in step.get_parameters() if p.name not in full and p.size == 1}


def _held(full: Mapping[str, tuple[int, ...]], own: Mapping[str, Parameter], on_host: set[str]) -> HeldState:
    """Return the net's parameters that the rank holds, and its other state on the card and in the host's memory."""
    return {
        "parameters": [
            {
                "name": name,
                "shape": shape,
                "slice": tuple(own[name].shape),
                "dtype": str(own[name].dtype).lower(),
                "trains": bool(own[name].requires_grad),
            }
            for name, shape in full.items()
            if name in own
        ],
        "state_bytes": sum(_bytes(p) for name, p in own.items() if name not in full and name not in on_host),
        "host_state_bytes": sum(_bytes(p) for name, p in own.items() if name in on_host),
    }


def _bytes(parameter: Parameter) -> int:
    return int(prod(parameter.shape)) * int(parameter.itemsize)


def _outline(config: RunConfig, device: Device, shapes: BatchShapes, start: Delta | None) -> LoadedModel:
    """Build the net without its base's weights. A starting delta is taken to belong to it: there are no weights to compare."""
    model = config.model
    loaded = outline_model(
        ModelSource(
            base=base_path(model),
            family=model.family,
            config=config_file(model),
            kwargs=model.kwargs,
            quantisation=form_to_make(model),
        ),
        task=shapes.task,
        num_labels=shapes.classes,
        compute_dtype=device.compute_dtype,
        seed=config.train.seed,
    )
    stored = {name.rpartition(".")[0]: info.name.rpartition(".")[0] for name, info in loaded.names.items()}
    sites = replace(loaded.sites, hf_paths={**stored, **loaded.sites.hf_paths})
    known = start.manifest.base.digest if start is not None and start.manifest is not None else ""
    return replace(loaded, sites=sites, base_digest=known, inputs=loaded.inputs or tuple(shapes.arrays))


def step_inputs(loaded: LoadedModel, shapes: BatchShapes, layout: Layout) -> tuple[Tensor, ...]:
    """Return (denominator, targets, the net's inputs) of a micro-batch: ones, in the shapes and types that the run will have.

    Where operators are split, every rank gets the full batch.
    """
    rows, tokens = shapes.batch * (layout.dp if layout.split else 1), shapes.tokens
    if shapes.arrays:
        arrays = [Tensor(np.ones((rows, *shape), dtype)) for dtype, shape in (shapes.arrays[n] for n in loaded.inputs)]
    else:
        lengths = {DECODER_INPUTS: shapes.target_tokens}
        arrays = [Tensor(np.ones((rows, lengths.get(name, tokens)), np.int32)) for name in loaded.inputs]
    kind = np.float32 if shapes.classes == 1 else np.int32
    targets = np.ones(rows if shapes.task == "classify" else (rows, shapes.target_tokens or tokens), kind)
    return (Tensor(float(rows), ms.float32), Tensor(targets), *arrays)


if __name__ == "__main__":
    main()
