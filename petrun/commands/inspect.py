"""`petrun inspect`: what a file or folder holds. Loads no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petrun import console
from petrun.checkpoint.delta import Delta, Manifest, read_delta
from petrun.checkpoint.run_files import RESULTS
from petrun.console import table
from petrun.errors import DeltaError, WeightsError
from petrun.models.folder import read_json
from petrun.tensors import TensorReader, open_tensors
from petrun.tensors.sharded.ranks import is_sharded
from petrun.tensors.sharded.strategy import Strategy, read_strategy

_FIRST = 12


def run(path: str, *, tensors: bool, as_json: bool) -> None:
    """Describe a delta, a base, a run folder, a peft folder, a checkpoint or a strategy file."""
    place = Path(path).expanduser()
    if not place.exists():
        raise DeltaError(f"{path}: no such file or folder", hint="Give a delta, a base or a run folder.")
    found = _describe(place)
    listed: Mapping[str, Any] = found.pop("tensors")
    if as_json:
        console.print(json.dumps({**found, "tensors": listed}, indent=2, ensure_ascii=False))
        return
    console.print(table([(key, _spell(value)) for key, value in found.items() if value not in (None, {}, [], ())]))
    shown = list(listed.items()) if tensors else list(listed.items())[:_FIRST]
    width = max((len(name) for name, _ in shown), default=0)
    console.print("\n".join(f"  {name.ljust(width)}  {info}" for name, info in shown))
    if len(shown) < len(listed):
        console.print(f"  ... and {len(listed) - len(shown)} more (--tensors lists all)")


def _describe(place: Path) -> dict[str, Any]:
    try:
        return _as_delta(place, read_delta(place))
    except DeltaError as error:
        if is_sharded(place):
            raise DeltaError(
                f"{place}: holds the files of a job's ranks, each with a piece of the tensors",
                hint="Inspect one of the files, or the job's strategy file, which says how they are cut.",
            ) from error
        return _other(place, error)


def _other(place: Path, error: DeltaError) -> dict[str, Any]:
    """A base, tensors, or a strategy; `error` where it is none of them."""
    try:
        found = _as_base(place)
    except WeightsError as unreadable:
        strategy = _as_strategy(place)
        if strategy is None:
            raise unreadable
        return strategy
    found = _as_strategy(place) if found is None else found
    if found is None:
        raise error
    return found


def _as_strategy(place: Path) -> dict[str, Any] | None:
    """How a job's strategy file, or the folder of its stages', cuts each parameter; None where it is neither."""
    try:
        strategy = read_strategy(place)
    except WeightsError:
        return None
    return {
        "kind": "strategy",
        "file": str(place),
        "ranks": strategy.devices,
        "stages": len(strategy.stages),
        "parameters": len(strategy.names),
        "tensors": {name: _cut(strategy, name) for name in strategy.names},
    }


def _cut(strategy: Strategy, name: str) -> str:
    """`in 8 x 1` of its dimensions, how much of that is optimizer parallel, and the stages that hold it."""
    held = strategy.stages_of(name)
    layout = strategy.stages[held[0]][name]
    parts = f"in {' x '.join(map(str, layout.parts))}" if any(part > 1 for part in layout.parts) else "whole"
    stages = f", on stage {', '.join(map(str, held))}" if len(strategy.stages) > 1 else ""
    group = layout.optimizer_group
    shared = f", {len(group)} of it by the optimizer parallel" if len(group) > 1 else ""
    return f"{parts}{shared}{stages}"


def _as_delta(place: Path, delta: Delta) -> dict[str, Any]:
    shapes = delta.shapes
    found: dict[str, Any] = {
        "kind": {"petrun": "delta", "peft": "peft adapter", "mindpet": "MindPet checkpoint"}[delta.origin],
        "file": str(delta.path),
    }
    if delta.manifest is not None:
        found.update(_manifest(delta.manifest))
    else:
        found["settings"] = delta.config
    results = place / RESULTS if place.is_dir() else None
    if results is not None and results.is_file():
        found["results"] = read_json(results)
    sizes = [_size(shape) for shape in shapes.values()]
    found["values"] = sum(sizes)
    found["tensors"] = {name: "x".join(map(str, shape)) or "scalar" for name, shape in shapes.items()}
    return found


def _manifest(manifest: Manifest) -> dict[str, Any]:
    task = manifest.task
    return {
        "algorithm": manifest.algo,
        "settings": manifest.config,
        "model": manifest.model_type or manifest.family,
        "base": f"{manifest.base.name or 'unnamed'}, digest {manifest.base.digest[:16]}",
        "task": task.name if task else None,
        "labels": list(task.labels) if task else None,
        "predicts": "a number" if task and task.num_labels == 1 else None,
        "longest row": task.seq_len if task else None,
        "step": manifest.step,
        "epoch": manifest.epoch,
        "seed": manifest.seed,
        "metrics": dict(manifest.metrics),
        "versions": manifest.versions,
        "digest": manifest.digest,
    }


def _as_base(place: Path) -> dict[str, Any] | None:
    """A folder with config.json, or any file of tensors; None where it is neither."""
    if place.is_dir() and not (place / "config.json").is_file():
        return None
    reader: TensorReader = open_tensors(place)
    infos = {name: reader.info(name) for name in reader.names}
    config = read_json(place / "config.json") if place.is_dir() else {}
    return {
        "kind": "base" if config else "tensors",
        "file": str(place),
        "model": config.get("model_type"),
        "architecture": ", ".join(map(str, config.get("architectures") or ())),
        "values": sum(info.elements for info in infos.values()),
        "bytes": sum(info.nbytes for info in infos.values()),
        "types": ", ".join(sorted({info.dtype for info in infos.values()})),
        "tensors": {name: f"{'x'.join(map(str, info.shape)) or 'scalar'} {info.dtype}" for name, info in infos.items()},
    }


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size


def _spell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_spell(v)}" for k, v in value.items() if v not in (None, {}, [], ()))
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
