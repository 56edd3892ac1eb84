"""How a setting is given on the command line: its flag, its help and the panel of `--help` that it stands in.

A command's own settings are a frozen record in petrun.config.commands whose fields are made by `argument`, `option` and `like`; settings
of a run have theirs in petrun.config.schema. This module imports neither MindSpore nor pydantic, so that `--help` is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeAlias

MODEL = "Model"
DELTA = "Delta"
DATA = "Data"
OPTIM = "Optimisation"
PARALLEL = "Parallel"
RUN = "Run"
CLUSTER = "Cluster"
COST = "Cost"

SettingField: TypeAlias = Any
"""A field of a record with its default and its option. It stands where a value of the field's own type is declared."""

Flags = Mapping[str, tuple[str, object]]
"""Settings of a run that were given by a flag: dotted key -> (flag as typed, value)."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option or argument of a command. Its type and default are those of the field that it belongs to."""

    flag: str = ""
    """`--rank`; `--pack/--no-pack` for a switch with both sides; "" for an argument."""
    short: str = ""
    """A second, shorter flag: `-dp`."""
    help: str = ""
    panel: str | None = None
    metavar: str | None = None
    choices: Callable[[], Iterable[str]] | None = None
    """Gives the values that the shell completes."""
    separated: bool = False
    """Several values are given in one text, with commas between. Else the option is given several times."""
    shows_default: bool = False
    """`--help` adds the default. Else the help text states it, because "not given" has a meaning of its own."""
    low: int | None = None
    high: int | None = None
    key: str = ""
    """Key of the schema whose flag, help and panel hold where this record does not say another."""


def split_list(text: str) -> list[str]:
    """`a,b` -> [a, b]."""
    return [part.strip() for part in text.split(",") if part.strip()]


def option(flag: str, text: str, panel: str | None = None, *, default: object = None, **more: Any) -> SettingField:
    """A field of a command's settings that a flag sets. `default=MISSING`: the flag must be given."""
    return field(default=default, metadata={"option": Option(flag=flag, help=text, panel=panel, **more)})


def argument(text: str, *, default: object = MISSING, **more: Any) -> SettingField:
    """A field of a command's settings that is given by its place on the command line."""
    return field(default=default, metadata={"option": Option(help=text, **more)})


def like(key: str, text: str = "", panel: str | None = None, *, default: object = None, **more: Any) -> SettingField:
    """A field with the flag of a run's setting, and its help where `text` is empty, in a command that has no run."""
    return field(default=default, metadata={"option": Option(key=key, help=text, panel=panel, **more)})


def sets_option() -> SettingField:
    """The field of --set."""
    text = "Set any key, over recipe and flags: --set optim.beta2=0.95. Repeatable."
    return option("--set", text, RUN, default=(), metavar="KEY=VALUE")


def option_of(one: Field[object]) -> Option | None:
    """How a field is given; None for a field that the command line does not set."""
    return one.metadata.get("option")


def options_of(settings: type[Any]) -> dict[str, Option]:
    """Field -> option of every field of a record that the command line sets."""
    found = ((one.name, option_of(one)) for one in fields(settings))
    return {name: how for name, how in found if how is not None}


@dataclass(frozen=True, kw_only=True)
class RunKeys:
    """The settings of a run that a command was given: they are merged and checked by petrun.config.load."""

    recipe: str | None = None
    flags: Flags = field(default_factory=dict)
    sets: tuple[str, ...] = sets_option()


@dataclass(frozen=True, kw_only=True)
class DeltaSources:
    """How deltas of other tools are read: the base they belong to, and what their files do not say."""

    base: str | None = like("model.base")
    family: str | None = like("model.family")
    alpha: float | None = option(
        "--alpha", "LoRA alpha of a delta whose file does not say it (MindPet checkpoints).", MODEL
    )
    base_strategy: str | None = None
    delta_strategy: str | None = None
    quant: str | None = None
    """The form in which the base is held, as model.quant."""
