"""Make the commands of the command line from tables: a command is a settings record, the order of its options, and a function.

An option is a field of the record (petrun.config.commands) or a key of the schema (petrun.config.schema); the record or the schema says
its flag, type, default, help and panel. The options of a command are made when they are first asked for, so that `petrun --help` needs
neither the schema nor pydantic.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from types import GenericAlias, UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from petrun.config.options import Option, RunKeys, options_of, split_list
from petrun.typing import JsonObject

S = TypeVar("S")
PARALLEL_KEY = "parallel"
ANYWHERE = frozenset({"--debug", "--quiet"})
"""Switches of the program, which may stand anywhere on the line."""


@dataclass(frozen=True, kw_only=True)
class SchemaKey:
    """A key of the schema among a command's options, with this command's own words for it. "": the schema's words."""

    name: str
    help: str = ""
    panel: str = ""


@dataclass(frozen=True, kw_only=True)
class CommandOption:
    """One option of a command, as Typer takes it."""

    name: str
    """Name of its parameter: the record's field, or the key with _ for its dots."""
    annotation: object
    default: object
    option: Option
    key: str = ""
    """Key of the schema that it sets; "" for a field of the record."""

    @property
    def is_switch(self) -> bool:
        """Whether the flag stands alone, without a value."""
        return self.annotation in (bool, bool | None)

    def parameter(self) -> inspect.Parameter:
        how = self.option
        more: JsonObject = {"help": how.help, "metavar": how.metavar, "show_default": how.shows_default}
        if how.choices is not None:
            more["autocompletion"] = _completer(how.choices, how.separated)
        default = ... if self.default is MISSING else self.default
        if how.flag:
            flags = [how.short, how.flag] if how.short else [how.flag]
            made = typer.Option(default, *flags, rich_help_panel=how.panel, min=how.low, max=how.high, **more)
        else:
            made = typer.Argument(default, **more)
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=made, annotation=self.annotation)

    def flags(self, value: Any) -> dict[str, tuple[str, object]]:
        """Return the settings of a run that the value sets: {key: (flag, value)}."""
        flag, _, _ = self.option.flag.partition("/")
        if self.key == PARALLEL_KEY:
            return _parallel(flag, value)
        if flag.startswith("--no-"):
            return {self.key: (flag, False)} if value else {}
        return {self.key: (flag, split_list(value) if self.option.separated else value)}


def _parallel(flag: str, value: str) -> dict[str, tuple[str, object]]:
    """Return the keys that `--parallel dp=2,tp=4` or `--parallel auto` sets. Raises ConfigError."""
    from petrun.parallel.layout import parse_layout

    return {f"{PARALLEL_KEY}.{key}": (flag, given) for key, given in parse_layout(value).items()}


def _completer(choices: Callable[[], Iterable[str]], separated: bool = False) -> Callable[[str], list[str]]:
    """Return a completer of the values that begin with the typed text; `separated`: with what follows its last comma.

    The shell calls it, so it must not import MindSpore.
    """

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",") if separated else ("", "", incomplete)
        given = split_list(before)
        return [f"{before}{comma}{value}" for value in choices() if value.startswith(last) and value not in given]

    return complete


class LazyCommand(TyperCommand):
    """A command that makes its options when they are first asked for."""

    source: Command[Any]

    def get_params(self, ctx: Any) -> Any:
        if not self.params:
            made = self.source.typer_command()
            self.params, self.callback = made.params, made.callback
        return super().get_params(ctx)


@dataclass(frozen=True, kw_only=True)
class Command(Generic[S]):
    """A command: its record, its options in the order of `--help`, and the function that takes the record."""

    name: str
    settings: type[S]
    options: Sequence[str | SchemaKey]
    run: Callable[[S], None]
    """Its docstring is the help text."""
    cls: type[LazyCommand] = LazyCommand

    @cached_property
    def given(self) -> tuple[CommandOption, ...]:
        """Return the options. Raises KeyError for a name that neither the record nor the schema has."""
        own, hints = options_of(self.settings), get_type_hints(self.settings)
        defaults = {one.name: one.default for one in fields(self.settings)}  # type: ignore[arg-type]
        found = []
        for item in self.options:
            key = item if isinstance(item, SchemaKey) else SchemaKey(name=item)
            if item in own:
                found.append(_of_field(key.name, own[key.name], hints[key.name], defaults[key.name]))
            else:
                found.append(_of_key(key))
        return tuple(found)

    def settings_of(self, typed: Mapping[str, Any]) -> S:
        """Return the record of the typed options; the others keep their defaults. Raises ConfigError."""
        values: JsonObject = {}
        flags: dict[str, tuple[str, object]] = {}
        for one in self.given:
            value = typed[one.name]
            if value is None:
                continue
            if one.key:
                flags |= one.flags(value)
            elif one.option.separated:
                values[one.name] = tuple(split_list(value))
            else:
                values[one.name] = tuple(value) if isinstance(value, list) else value
        if issubclass(self.settings, RunKeys):
            values["flags"] = flags
        return self.settings(**values)

    def typer_command(self) -> Any:
        """Make Typer's command, with all its options."""

        def call(**typed: Any) -> None:
            self.run(self.settings_of(typed))

        parameters = [one.parameter() for one in self.given]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {one.name: one.annotation for one in parameters}
        alone = typer.Typer(add_completion=False)
        alone.command(self.name)(call)
        return typer.main.get_command(alone)

    def add_to(self, app: typer.Typer, panel: str | None = None) -> None:
        """Register the command. Its options are made when they are first asked for."""
        cls = type(self.cls.__name__, (self.cls,), {"source": self})
        app.command(self.name, cls=cls, help=inspect.getdoc(self.run), rich_help_panel=panel)(lambda: None)


def _of_field(name: str, how: Option, hint: object, default: object) -> CommandOption:
    """Make an option that sets a field of the record. It is None where it is not typed, unless `--help` shows its default."""
    if how.key:
        _, theirs = _flag_of(how.key)
        how = replace(theirs, help=how.help or theirs.help, panel=how.panel or theirs.panel, key="")
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    (kind,) = [part for part in parts if part is not type(None)]
    if get_origin(kind) in (tuple, Sequence):
        kind = str if how.separated else GenericAlias(list, get_args(kind)[:1])
    switch = kind is bool and "/" not in how.flag
    if default is MISSING or how.shows_default or switch:
        return CommandOption(name=name, annotation=kind, default=default, option=how)
    return CommandOption(name=name, annotation=kind | None, default=None, option=how)


def _of_key(key: SchemaKey) -> CommandOption:
    """Make an option that sets a key of the schema. Raises KeyError for one without a flag."""
    kind, how = _flag_of(key.name)
    how = replace(how, help=key.help or how.help, panel=key.panel or how.panel)
    name = key.name.replace(".", "_")
    if how.flag.startswith("--no-"):
        return CommandOption(name=name, annotation=bool, default=False, option=how, key=key.name)
    return CommandOption(name=name, annotation=kind | None, default=None, option=how, key=key.name)


def _flag_of(key: str) -> tuple[type, Option]:
    # The schema imports pydantic, which takes longer than all of `petrun --help`.
    from petrun.config.flags import flag_of

    return flag_of(key)
