"""Propose settings of a run that fit into so much memory: batch, length of rows, recompute and layout, and what each costs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from petrun.errors import ConfigError
from petrun.training.planning.run_plan import RunPlan
from petrun.training.setup.memory_check import fitting

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_MOST_LAYOUTS = 3
_LARGEST_FACTOR = 64


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Settings as the user types them, what a rank needs with them, and why."""

    flags: str
    bytes: int
    why: str


def parse_bytes(text: str, flag: str) -> int:
    """Read `32G`, `32GiB`, `48000M` or a number of bytes; units are powers of 1024. Raises ConfigError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    count = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if count < 1:
        raise ConfigError(f"{flag} {text}: is no amount of memory", hint=f"Example: {flag} 32G")
    return count


def proposals(plan: RunPlan, available: int) -> list[Proposal]:
    """Return what fits: where the run fits as it is, a larger batch that does too; else what makes it fit, the least change first.

    Empty where the memory is not known, and where nothing fits.
    """
    if plan.memory is None or plan.needed is None:
        return []
    if plan.needed.total <= available:
        return list(_larger(plan, available))
    found: list[Proposal] = []
    seen: dict[str, int] = {}
    for each in fitting(plan.resolved, plan.memory, available):
        kind = " ".join(re.findall(r"--[a-z-]+", each.flags))
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= (_MOST_LAYOUTS if kind == "--parallel" else 1):
            found.append(Proposal(flags=each.flags, bytes=each.bytes, why=each.why))
    return [*found, *_shorter(plan, available)]


def _larger(plan: RunPlan, available: int) -> Iterator[Proposal]:
    """Yield the largest batch, in doublings, that fits as well."""
    memory, train = plan.memory, plan.resolved.config.train
    assert memory is not None
    best, factor = None, 2
    while factor <= _LARGEST_FACTOR:
        accumulate = train.accumulate // factor if train.accumulate % factor == 0 else train.accumulate
        needed = memory.plan(rows=train.batch_size * factor, accumulate=accumulate > 1).total
        if needed > available:
            break
        best, factor = (factor, accumulate, needed), factor * 2
    if best is None:
        return
    factor, accumulate, needed = best
    same = accumulate * factor == train.accumulate
    flags = f"--batch-size {train.batch_size * factor}" + (f" --accumulate {accumulate}" if same else "")
    changed = "the step has the same rows" if same else f"an epoch has {factor} times fewer steps; choose --lr anew"
    yield Proposal(flags=flags, bytes=needed, why=f"the largest batch in doublings that fits; {changed}")


def _shorter(plan: RunPlan, available: int) -> Iterator[Proposal]:
    """Yield the longest of the run's lengths (buckets) that fits: the longest one decides the memory."""
    memory, resolved = plan.memory, plan.resolved
    assert memory is not None
    rows = resolved.sources.train
    for tokens in sorted(resolved.batching.buckets, reverse=True)[1:]:
        needed = memory.plan(tokens=tokens, target_tokens=min(memory.settings.target_tokens, tokens)).total
        if needed <= available:
            cut = int((rows.batch_lengths.reshape(len(rows), -1) > tokens).any(1).sum())
            why = (
                f"the longest bucket decides the memory; {cut:,} of {len(rows):,} rows would be cut at {tokens} tokens"
            )
            yield Proposal(flags=f"--seq-len {tokens}", bytes=needed, why=why)
            return
