"""`petrun delta info` and `diff`: what deltas hold, without their base."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from petrun import console
from petrun.algebra.comparison import Norm, Pair, compared, norms
from petrun.checkpoint.delta import Delta, read_delta
from petrun.checkpoint.delta_method import method_of
from petrun.checkpoint.derived import refuse_other_bases
from petrun.commands.delta.files import Opener
from petrun.console import table

_FIRST = 24


def info(path: str, *, as_json: bool, every: bool) -> None:
    """The manifest, and the norm of what is added to every layer. A delta of another tool shows its own names."""
    delta = read_delta(Path(path).expanduser())
    if delta.manifest is not None:
        _, config = method_of(delta.algo, delta.config, delta.path)
        delta = Delta(
            delta.path,
            delta.tensors,
            delta.manifest,
            delta.origin,
            delta.algo,
            config.model_dump(mode="json"),
            delta.digest,
        )
    found = norms(delta) if delta.manifest is not None else _raw(delta)
    described = _described(delta)
    if as_json:
        rows = [asdict(each) for each in found]
        console.print(json.dumps({**described, "tensors": rows}, indent=2, ensure_ascii=False))
        return
    console.print(
        table([(key, _spell(value)) for key, value in described.items() if value not in (None, "", {}, [], ())])
    )
    _list(found, every)


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


def _described(delta: Delta) -> dict[str, Any]:
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


def _spell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_spell(each)}" for key, each in value.items() if each not in (None, {}, [], ()))
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def diff(
    first: str, second: str, *, base: str | None, family: str | None, alpha: float | None, as_json: bool, every: bool
) -> None:
    """Two deltas of one base: settings that differ, and layer by layer norms, cosine and difference."""
    one, other = Opener(base, family, alpha)(first, second)
    refuse_other_bases([one, other])
    settings = _settings(one, other)
    pairs = compared(one, other)
    if as_json:
        found = {"same": one.digest == other.digest, "settings": settings, "tensors": [asdict(pair) for pair in pairs]}
        console.print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    if one.digest == other.digest:
        console.print("the tensors are the same")
    for key, (mine, theirs) in settings.items():
        console.print(f"{key}: {mine} | {theirs}")
    _rows(pairs if every else pairs[:_FIRST])
    if not every and len(pairs) > _FIRST:
        console.print(f"  ... and {len(pairs) - _FIRST} more (--all lists them)")
    _in_all(pairs)


def _settings(one: Delta, other: Delta) -> dict[str, tuple[Any, Any]]:
    sides = [{"algorithm": delta.algo, **delta.config} for delta in (one, other)]
    keys = dict.fromkeys((*sides[0], *sides[1]))
    return {key: (sides[0].get(key), sides[1].get(key)) for key in keys if sides[0].get(key) != sides[1].get(key)}


def _rows(pairs: Sequence[Pair]) -> None:
    width = max((len(pair.name) for pair in pairs), default=0)
    for pair in pairs:
        if pair.first is None or pair.second is None:
            where = "second" if pair.first is None else "first"
            console.print(
                f"  {pair.name.ljust(width)}  only in the {where}, norm {(pair.first or pair.second or 0.0):.4g}"
            )
            continue
        angle = "no angle" if pair.cosine is None else f"cosine {pair.cosine:+.4f}"
        gap = "other shape" if pair.difference is None else f"difference {pair.difference:.4g}"
        console.print(f"  {pair.name.ljust(width)}  norm {pair.first:<9.4g} | {pair.second:<9.4g} {angle}  {gap}")


def _in_all(pairs: Sequence[Pair]) -> None:
    both = [pair for pair in pairs if pair.update and pair.cosine is not None]
    if not both:
        return
    sizes = [math.hypot(*(getattr(pair, side) or 0.0 for pair in both)) for side in ("first", "second")]
    inner = sum((pair.cosine or 0.0) * (pair.first or 0.0) * (pair.second or 0.0) for pair in both)
    console.print(
        f"{len(both)} layers in both: norm {sizes[0]:.4g} | {sizes[1]:.4g}, cosine {inner / (sizes[0] * sizes[1]):+.4f}"
    )
