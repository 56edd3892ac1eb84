"""Plan the runs of a sweep: every combination of the values of --over, each a run with a folder of its own."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from petrun.config.flags import DELTA_FLAGS, flag_of
from petrun.config.load import known_keys, parse_assignment
from petrun.config.options import Flags
from petrun.delta.method import MethodConfig
from petrun.errors import ConfigError

_EXAMPLE = "Example: --over lr=1e-4,3e-4 --over delta.rank=4,8"
_FIXED = ("out.dir", "device", "model.dtype", "compile_cache")
"""Settings of the process, or of the whole sweep."""
_LONGEST = 120
"""Characters of a folder's name; a disk allows 255 bytes."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A setting that the runs differ in, and its values as they were typed."""

    name: str
    """As it was typed: lr, or optim.lr."""
    key: str
    """Dotted key of the setting."""
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One run of a sweep."""

    name: str
    """`lr=1e-4,delta.rank=8`: the name of its folder."""
    sets: tuple[str, ...]
    """Its own settings, as --set takes them."""


def parse_axes(texts: Sequence[str], flags: Flags, sets: Sequence[str]) -> tuple[Axis, ...]:
    """Parse the values of --over. `flags`, `sets`: the settings that all runs have, which must not name the same keys.

    Raises ConfigError.
    """
    if not texts:
        raise ConfigError("a sweep needs at least one --over KEY=VALUE,VALUE", hint=_EXAMPLE)
    axes = tuple(_axis(text) for text in texts)
    given = {**{key: flag for key, (flag, _) in flags.items()}, **{s.partition("=")[0].strip(): "--set" for s in sets}}
    for position, axis in enumerate(axes):
        if any(axis.key == other.key for other in axes[:position]):
            raise ConfigError(f"--over {axis.name} is given twice", hint="Give all its values at once, with commas.")
        if axis.key in given:
            raise ConfigError(
                f"{given[axis.key]} sets {axis.key}, and --over {axis.name} gives each run a value of its own",
                hint=f"Leave {given[axis.key]} out.",
            )
    return axes


def members_of(axes: Sequence[Axis]) -> tuple[Member, ...]:
    """Return every combination of the values, the last axis changing fastest."""
    found: list[Member] = []
    for values in itertools.product(*(axis.values for axis in axes)):
        pairs = list(zip(axes, values, strict=True))
        name = ",".join(f"{axis.name}={_label(value)}" for axis, value in pairs)
        sets = tuple(f"{axis.key}={value}" for axis, value in pairs)
        plain = re.sub(r"[^\w.,=+-]+", "_", name)
        found.append(
            Member(name=plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]}-{len(found) + 1}", sets=sets)
        )
    return tuple(found)


def _label(value: str) -> str:
    """Spell a value in a folder's name: q+v for a list."""
    return "+".join(map(str, json.loads(value))) if value.startswith("[") else value


def _axis(text: str) -> Axis:
    name, sign, values = text.partition("=")
    name = name.strip()
    if not sign or not name:
        raise ConfigError(f"--over {text} is not of the form KEY=VALUE,VALUE", hint=_EXAMPLE)
    key = _key_of(name)
    if key in _FIXED:
        raise ConfigError(f"--over {name}: all runs of a sweep have the same {key}", hint=_EXAMPLE)
    parts = _values(name, values)
    if not parts:
        raise ConfigError(f"--over {name} names no value", hint=_EXAMPLE)
    if len(set(parts)) < len(parts):
        twice = next(part for part in parts if parts.count(part) > 1)
        raise ConfigError(f"--over {name} names {twice} twice", hint="Give each value once.")
    return Axis(name=name, key=key, values=parts)


def _values(name: str, text: str) -> tuple[str, ...]:
    """Split `1e-4,3e-4`, or `[[q,v],[q,k,v]]` where a value is a list itself."""
    if not text.lstrip().startswith("["):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    _, listed = parse_assignment(f"{name}={text}")
    if not isinstance(listed, list):
        raise ConfigError(f"--over {name}: {text} is no list", hint="Example: --over target=[[q,v],[q,k,v,o]]")
    return tuple(one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in listed)


def _key_of(name: str) -> str:
    """Return the key of a flag's name, such as lr or batch-size; the name itself where it is a key."""
    if "." in name:
        return name
    for key in (*DELTA_FLAGS, *known_keys(MethodConfig)):
        try:
            flag = flag_of(key)[1].flag
        except KeyError:
            continue
        if name in [side.lstrip("-") for side in flag.split("/")]:
            return key
    return name
