"""`petrun delta info`: print what a delta holds, without its base."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from petrun import console
from petrun.algebra.comparison import Norm, norms
from petrun.checkpoint.delta import Delta, read_delta
from petrun.checkpoint.delta_method import method_of
from petrun.config.commands.delta import InfoSettings
from petrun.console import table
from petrun.typing import JsonObject

_FIRST = 24


def run(settings: InfoSettings) -> None:
    """Print the manifest, and the norm of what is added to every layer. A delta of another tool shows its own names."""
    delta = read_delta(Path(settings.delta).expanduser())
    if delta.manifest is not None:
        _, config = method_of(delta.algo, delta.config, delta.path)
        delta = replace(delta, config=config.model_dump(mode="json"))
    found = norms(delta) if delta.manifest is not None else _raw(delta)
    described = _described(delta)
    if settings.as_json:
        rows = [asdict(each) for each in found]
        console.print(json.dumps({**described, "tensors": rows}, indent=2, ensure_ascii=False))
        return
    console.print(
        table([(key, _spell(value)) for key, value in described.items() if value not in (None, "", {}, [], ())])
    )
    _list(found, settings.every)


def _raw(delta: Delta) -> list[Norm]:
    return [
        Norm(name, values.shape, float((values.astype("float64") ** 2).sum() ** 0.5))
        for name in delta.tensors
        for values in [delta.tensors[name]]
    ]


def _list(found: Sequence[Norm], every: bool) -> None:
    shown = found if every else found[:_FIRST]
    width = max((len(each.name) for each in shown), default=0)
    for each in shown:
        rank = f"rank {each.rank}" if each.rank is not None else ""
        shape = "x".join(map(str, each.shape)) or "scalar"
        console.print(f"  {each.name.ljust(width)}  {shape.ljust(12)} {rank.ljust(9)} norm {each.norm:.4g}")
    if len(shown) < len(found):
        console.print(f"  ... and {len(found) - len(shown)} more (--all lists them)")
    console.print(f"{len(found)} layers and tensors, norm {math.hypot(*(each.norm for each in found)):.4g} in all")


def _described(delta: Delta) -> JsonObject:
    manifest = delta.manifest
    if manifest is None:
        return {"file": str(delta.path), "kind": f"{delta.origin} delta", "settings": dict(delta.config)}
    return {
        "file": str(delta.path),
        "algorithm": delta.algo,
        "settings": dict(delta.config),
        "model": manifest.model_type or manifest.family,
        "base": f"{manifest.base.name or 'unnamed'}, digest {manifest.base.digest[:16]}",
        "task": manifest.task.name if manifest.task else None,
        "step": manifest.step,
        "metrics": dict(manifest.metrics),
        "made": list(manifest.made),
        "digest": delta.digest,
    }


def _spell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_spell(each)}" for key, each in value.items() if each not in (None, {}, [], ()))
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
