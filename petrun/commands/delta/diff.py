"""`petrun delta diff`: compare two deltas."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict

from petrun import console
from petrun.algebra.comparison import Pair, compared
from petrun.algebra.derived import refuse_other_bases
from petrun.checkpoint.delta import Delta
from petrun.config.commands.delta import DiffSettings
from petrun.inference.delta_opener import DeltaOpener

_FIRST = 24


def run(given: DiffSettings) -> None:
    """Compare two deltas of one base: settings that differ, and layer by layer norms, cosine and difference."""
    one, other = DeltaOpener(given)(given.first, given.second)
    refuse_other_bases([one, other])
    settings = _settings(one, other)
    pairs = compared(one, other)
    if given.as_json:
        found = {"same": one.digest == other.digest, "settings": settings, "tensors": [asdict(pair) for pair in pairs]}
        console.print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    if one.digest == other.digest:
        console.print("the tensors are the same")
    for key, (mine, theirs) in settings.items():
        console.print(f"{key}: {mine} | {theirs}")
    _rows(pairs if given.every else pairs[:_FIRST])
    if not given.every and len(pairs) > _FIRST:
        console.print(f"  ... and {len(pairs) - _FIRST} more (--all lists them)")
    _in_all(pairs)


def _settings(one: Delta, other: Delta) -> dict[str, tuple[object, object]]:
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
