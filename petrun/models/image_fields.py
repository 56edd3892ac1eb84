"""Read a config.json of diffusers: lists of blocks and channels, fields that must have one value, and none that is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from petrun.errors import did_you_mean
from petrun.models.fields import Fields, spell

SILU = ("silu", "swish")


def require_known(f: Fields, fixed: Mapping[str, tuple[object, ...]], read: Sequence[str], free: Sequence[str]) -> None:
    """Record every field whose value is none of those that `fixed` allows (the first is the default), every null among `read`, which
    leaves a part of the net out, and every field that is named nowhere: a later diffusers may have made it change what is computed.

    `free`: fields that any value may have.
    """
    for name, allowed in fixed.items():
        value = f.raw.get(name, allowed[0])
        if value not in allowed:
            f.unsupported(name, value, ", ".join(spell(v) for v in allowed))
    for name in read:
        if name in f.raw and f.raw[name] is None:
            f.unsupported(name, None, "a value")
    known = {*fixed, *read, *free, "model_type"}
    for name in f.raw:
        if name not in known and not name.startswith("_"):
            f.problems.append(f"{name} is no known field of a {f.family}. {did_you_mean(name, known)}".rstrip())


def widths(f: Fields, name: str, default: Sequence[int], groups: int) -> tuple[int, ...]:
    """Return a list of channels, each a multiple of `groups`."""
    found = f.value(name, list(default))
    if isinstance(found, list | tuple) and found and all(_is_count(c) and c % groups == 0 for c in found):
        return tuple(found)
    f.wrong(name, found, f"a list of multiples of norm_num_groups = {groups}")
    return (groups,)


def one_per_block(f: Fields, name: str, default: int, blocks: int) -> tuple[int, ...]:
    """Return a number for each block: a list of them, or one number for all."""
    found = f.value(name, default)
    if _is_count(found):
        return (found,) * blocks
    if isinstance(found, list | tuple) and len(found) == blocks and all(map(_is_count, found)):
        return tuple(found)
    f.wrong(name, found, f"a positive integer, or a list of {blocks}")
    return (1,) * blocks


def block_types(f: Fields, name: str, default: Sequence[str], known: Sequence[str], blocks: int) -> tuple[str, ...]:
    """Return the name of each block's class, all among `known`."""
    found = f.value(name, list(default))
    if not isinstance(found, list | tuple) or len(found) != blocks:
        f.wrong(name, found, f"a list of {blocks} blocks, as block_out_channels is")
        return (known[0],) * blocks
    for each in found:
        if each not in known:
            f.unsupported(name, each, ", ".join(known))
            return (known[0],) * blocks
    return tuple(found)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31
