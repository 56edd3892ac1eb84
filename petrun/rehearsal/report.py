"""Write the report of a rehearsal: shards, collectives and memory of each rank, and what a rehearsal cannot show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod

from petrun.config.schema import RunConfig
from petrun.console import bytes_text, table
from petrun.inference.assembly import base_path
from petrun.parallel.layout import Layout
from petrun.rehearsal.rank_result import HeldParameter, RankResult

LIMITS = (
    "not shown: numbers (--compute computes them), kernels and their speed, HCCL and the network; peak memory is MindSpore's own plan, "
    "without the kernels' workspaces, HCCL's buffers and fragmentation."
)
_ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float64": 8, "int64": 8, "bool": 1, "int8": 1, "uint8": 1}


def report(config: RunConfig, layout: Layout, shapes: str, found: Sequence[RankResult], level: int) -> str:
    """Return the report as text; shards that several ranks share are written once."""
    first = found[0]
    names = ", ".join(str(rank["rank"]) for rank in found)
    rows = [
        (
            "rehearsal",
            f"{layout} on {layout.world} Ascend cards, rank{'s' if len(found) > 1 else ''} {names}, level {level}",
        ),
        (
            "model",
            f"{base_path(config.model) or config.model.family}, {first['values']:,} parameters, {first['dtype']}",
        ),
        ("delta", f"{first['method']}: {first['trained_values']:,} trained"),
        ("shapes", shapes),
    ]
    parts = [table(rows)]
    written: dict[str, int] = {}
    for rank in found:
        slices = shard_lines(rank["parameters"])
        parts.append(_rank_text(rank, slices, written.setdefault("\n".join(slices), rank["rank"]), level))
    return "\n\n".join([*parts, LIMITS])


def shard_lines(parameters: Sequence[HeldParameter]) -> list[str]:
    """Return one line for all layers that are sharded alike: `layers.*.attn.q.weight  16x  4096x4096 -> 1024x4096  bfloat16`."""
    groups: dict[tuple[str, tuple[int, ...], tuple[int, ...], str, bool], int] = {}
    for p in parameters:
        key = (re.sub(r"\.\d+(?=\.)", ".*", p["name"]), tuple(p["shape"]), tuple(p["slice"]), p["dtype"], p["trains"])
        groups[key] = groups.get(key, 0) + 1
    cells = []
    for (name, shape, held, dtype, trains), count in groups.items():
        sizes = f"{shape_text(shape)} -> {shape_text(held)}" if shape != held else f"{shape_text(shape)} whole"
        cells.append((name, f"{count}x" if count > 1 else "", sizes, dtype, "trains" if trains else ""))
    widths = [max(len(cell[i]) for cell in cells) for i in range(5)] if cells else []
    return ["  ".join(text.ljust(width) for text, width in zip(cell, widths, strict=True)).rstrip() for cell in cells]


def shape_text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "()"


def weight_bytes(parameters: Sequence[HeldParameter]) -> int:
    """Return the bytes of this rank's shards."""
    return sum(prod(p["slice"]) * _ITEM_BYTES.get(p["dtype"], 4) for p in parameters)


def _rank_text(rank: RankResult, slices: Sequence[str], first: int, level: int) -> str:
    place = rank["place"]
    own = rank["parameters"]
    trained = weight_bytes([p for p in own if p["trains"]])
    calls = [f"{name} {c['count']} ({bytes_text(c['bytes'])})" for name, c in rank["collectives"].items()]
    least = weight_bytes(own) + trained + rank["state_bytes"]
    memory = (
        f"weights {bytes_text(weight_bytes(own))}, of which {bytes_text(trained)} train; "
        f"optimizer and step state {bytes_text(rank['state_bytes'])}"
    )
    if rank["host_state_bytes"]:
        memory += f", and {bytes_text(rank['host_state_bytes'])} in the host's memory"
    rows = [
        ("collectives", ", ".join(calls) or "none: this rank computes alone"),
        ("held", memory),
        ("peak memory", _peak(rank["peak_bytes"], least) if rank["peak_bytes"] is not None else "only with --level 1"),
        ("time", f"built in {rank['build_seconds']:.1f} s, compiled in {rank['compile_seconds']:.1f} s"),
    ]
    head = f"rank {rank['rank']}: stage {place['stage']}, row {place['row']}, column {place['column']}"
    written = "\n".join(f"  {line}" for line in slices) if first == rank["rank"] else f"  shards as on rank {first}"
    return f"{head}\n{written}\n" + "\n".join(f"  {line}" for line in table(rows).splitlines())


def _peak(planned: int, least: int) -> str:
    """Return the peak memory, with a warning where it is too small: MindSpore's plan leaves out branches that a rehearsal does not take."""
    peak = bytes_text(planned)
    if planned >= least:
        return peak
    return f"{peak}, which is less than weights, gradients and state together ({bytes_text(least)}): count with more"
