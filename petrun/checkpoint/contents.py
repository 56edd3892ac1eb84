"""Describe what a file or folder holds: a delta, a base, tensors or a strategy. Reads headers and manifests; loads no model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from petrun.checkpoint.delta import Delta, Manifest, read_delta
from petrun.checkpoint.run_files import RESULTS
from petrun.errors import DeltaError, WeightsError
from petrun.models.folder import read_json
from petrun.tensors import open_tensors
from petrun.tensors.sharded.ranks import is_sharded
from petrun.tensors.sharded.strategy import read_strategy
from petrun.typing import JsonObject

_ORIGINS = {"petrun": "delta", "peft": "peft adapter", "mindpet": "MindPet checkpoint"}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A description of a file or folder, with values for JSON."""

    facts: JsonObject
    tensors: dict[str, str]
    """Name -> shape and type, or how the tensor is sharded."""


def contents_of(path: Path) -> Contents:
    """Describe `path`. Raises DeltaError and WeightsError where it is none of the known kinds."""
    try:
        return _of_delta(path, read_delta(path))
    except DeltaError as error:
        if is_sharded(path):
            raise DeltaError(
                f"{path}: holds the files of a job's ranks, each with a shard of the tensors",
                hint="Inspect one of the files, or the job's strategy file, which says how they are sharded.",
            ) from error
        return _of_other(path, error)


def _of_other(path: Path, error: DeltaError) -> Contents:
    """Describe a base, tensors, or a strategy; raises `error` where it is none of them."""
    try:
        found = _of_base(path)
    except WeightsError as unreadable:
        strategy = _of_strategy(path)
        if strategy is None:
            raise unreadable
        return strategy
    found = _of_strategy(path) if found is None else found
    if found is None:
        raise error
    return found


def _of_strategy(path: Path) -> Contents | None:
    """Describe how a job's strategy file, or the folder of its stages' files, shards each parameter; None where it is neither."""
    try:
        strategy = read_strategy(path)
    except WeightsError:
        return None
    return Contents(
        facts={
            "kind": "strategy",
            "file": str(path),
            "ranks": strategy.devices,
            "stages": len(strategy.stages),
            "parameters": len(strategy.names),
        },
        tensors={name: strategy.describe(name) for name in strategy.names},
    )


def _of_delta(path: Path, delta: Delta) -> Contents:
    facts: JsonObject = {"kind": _ORIGINS[delta.origin], "file": str(delta.path)}
    facts.update(_of_manifest(delta.manifest) if delta.manifest is not None else {"settings": delta.config})
    results = path / RESULTS if path.is_dir() else None
    if results is not None and results.is_file():
        facts["results"] = read_json(results)
    facts["values"] = sum(math.prod(shape) for shape in delta.shapes.values())
    return Contents(facts=facts, tensors={name: _shape_text(shape) for name, shape in delta.shapes.items()})


def _of_manifest(manifest: Manifest) -> JsonObject:
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


def _of_base(path: Path) -> Contents | None:
    """Describe a folder with config.json, or any file of tensors; None for a folder without config.json."""
    if path.is_dir() and not (path / "config.json").is_file():
        return None
    reader = open_tensors(path)
    infos = {name: reader.info(name) for name in reader.names}
    config = read_json(path / "config.json") if path.is_dir() else {}
    return Contents(
        facts={
            "kind": "base" if config else "tensors",
            "file": str(path),
            "model": config.get("model_type"),
            "architecture": ", ".join(map(str, config.get("architectures") or ())),
            "values": sum(info.elements for info in infos.values()),
            "bytes": sum(info.nbytes for info in infos.values()),
            "types": ", ".join(sorted({info.dtype for info in infos.values()})),
        },
        tensors={name: f"{_shape_text(info.shape)} {info.dtype}" for name, info in infos.items()},
    )


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
