"""Freeze all parameters but those that train. Methods declare which they own, no name is guessed; nothing trainable is an error."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import mindspore as ms

from petrun.errors import TargetError, TrainingError, did_you_mean
from petrun.graph.packed_weight import packed_parameters, packed_values
from petrun.graph.surgery import shared_names
from petrun.typing import Cell, Parameter


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """The parameters that train, and their share of the net."""

    parameters: tuple[Parameter, ...]
    trained_values: int
    all_values: int

    @property
    def share(self) -> float:
        return self.trained_values / max(self.all_values, 1)


def match_names(names: Collection[str], patterns: Iterable[str], flag: str) -> tuple[str, ...]:
    """Return the names that the globs match. Raises TargetError for each pattern that matches nothing."""
    found: dict[str, None] = {}
    problems = []
    for pattern in patterns:
        hits = [n for n in names if fnmatchcase(n, pattern)]
        if not hits:
            problems.append(f"{flag} {pattern} matches no parameter. {did_you_mean(pattern, names)}")
        found.update(dict.fromkeys(hits))
    if problems:
        raise TargetError("\n".join(problems))
    return tuple(found)


def match_parameters(net: Cell, patterns: Iterable[str], flag: str) -> tuple[str, ...]:
    """Return the names of the parameters that the globs match. Raises TargetError for each pattern that matches nothing.

    A matrix that two layers share is one parameter, whichever of its names a glob matches: both layers train it.
    """
    shared = shared_names(net)
    hits = match_names([*(p.name for p in net.get_parameters()), *shared], patterns, flag)
    return tuple(dict.fromkeys(shared.get(name, name) for name in hits))


def trainable_of(net: Cell) -> Trainable:
    """Return the parameters that train in a net as it is."""
    trained = tuple(p for p in net.get_parameters() if p.requires_grad)
    codes = packed_parameters(net)
    plain = [p for p in net.get_parameters() if p.name not in codes]
    counted = [p for p in plain if p.requires_grad or "Float" in str(p.dtype)]
    return Trainable(
        parameters=trained,
        trained_values=sum(p.size for p in trained),
        all_values=sum(p.size for p in counted) + packed_values(net),
    )


def freeze_all_but(net: Cell, owned: Iterable[str], fixed: Iterable[str] = ()) -> Trainable:
    """Train exactly the owned names, in float32: an update of one part in a thousand is lost in a half-precision weight.

    `fixed`: last parts of the names of owned parameters that do not train (a mask). The frozen ones stay as they are.
    Raises TrainingError when nothing is left to train, or when a name does not exist.
    """
    leaves = set(fixed)
    names = {name for name in owned if name.rpartition(".")[2] not in leaves}
    parameters = list(net.get_parameters())
    missing = sorted(names - {p.name for p in parameters})
    if missing:
        raise TrainingError(f"cannot train parameters that the net does not have: {', '.join(missing[:5])}")
    codes = packed_parameters(net)
    fixed_codes = sorted(names & codes.keys())
    if fixed_codes:
        raise TrainingError(
            f"cannot train {fixed_codes[0]} and {len(fixed_codes) - 1} more: they are codes of {codes[fixed_codes[0]]}"
            if len(fixed_codes) > 1
            else f"cannot train {fixed_codes[0]}: it is codes of {codes[fixed_codes[0]]}",
            hint="Only what is in full precision trains: --base-bits none.",
        )
    if not names:
        raise TrainingError(
            "nothing is trainable: the algorithm owns no parameter of this model",
            hint="Name layers with --target, or parameters with --train-also PATTERN.",
        )
    for parameter in parameters:
        parameter.requires_grad = parameter.name in names
        if parameter.requires_grad and parameter.dtype in (ms.float16, ms.bfloat16):
            parameter.set_dtype(ms.float32)
    return trainable_of(net)
