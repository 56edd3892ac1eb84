"""`petrun inspect`: what a file or folder holds. Loads no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petrun.checkpoint.delta import Delta, Manifest, read_delta
from petrun.errors import DeltaError
from petrun.models.folder import read_json
from petrun.runs.folder import RESULTS
from petrun.tensors import TensorReader, open_tensors
from petrun.train.report import say, table

_FIRST = 12


def run(path: str, *, tensors: bool, as_json: bool) -> None:
    """Describe a delta, a base, a run folder, a peft folder or a checkpoint."""
    place = Path(path).expanduser()
    if not place.exists():
        raise DeltaError(f"{path}: no such file or folder", hint="Give a delta, a base or a run folder.")
    found = _describe(place)
    listed: Mapping[str, Any] = found.pop("tensors")
    if as_json:
        say(json.dumps({**found, "tensors": listed}, indent=2, ensure_ascii=False))
        return
    say(table([(key, _spell(value)) for key, value in found.items() if value not in (None, {}, [], ())]))
    shown = list(listed.items()) if tensors else list(listed.items())[:_FIRST]
    width = max((len(name) for name, _ in shown), default=0)
    say("\n".join(f"  {name.ljust(width)}  {info}" for name, info in shown))
    if len(shown) < len(listed):
        say(f"  ... and {len(listed) - len(shown)} more (--tensors lists all)")


def _describe(place: Path) -> dict[str, Any]:
    try:
        delta = read_delta(place)
    except DeltaError as error:
        base = _as_base(place)
        if base is None:
            raise error
        return base
    return _as_delta(place, delta)


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
