"""Call a command from a program: its keywords become the command's settings, and what MindSpore raises becomes petrun's errors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from petrun import console
from petrun.cli import faults
from petrun.cli.command import Command, CommandOption
from petrun.config.options import RunKeys
from petrun.errors import ConfigError, DeviceMemoryError, did_you_mean
from petrun.mindspore_messages import keep_quiet
from petrun.typing import JsonObject

S = TypeVar("S", bound=RunKeys)
SETTINGS = "settings"
"""The keyword that stands for --set: {"optim.beta2": 0.95}."""


def settings_of(command: Command[S], function: str, keywords: Mapping[str, object], **own: object) -> S:
    """Return the command's record of these keywords, each named as the command's flag without its dashes. None: not given.

    `own`: fields of the record that have no keyword here. Raises ConfigError for a keyword that the command has no flag for.
    """
    known = {keyword_of(one): one for one in command.given if one.option.flag}
    values: JsonObject = dict(own)
    flags: dict[str, tuple[str, object]] = {}
    for name, value in keywords.items():
        if name not in known:
            names = [*known, SETTINGS]
            raise ConfigError(f"petrun.{function}({name}=...): there is no such setting. {did_you_mean(name, names)}")
        if value is None:
            continue
        one, value = known[name], _plain(value)
        if one.name == "sets":
            flags |= _assigned(function, value)
        elif one.key:
            flags |= _flags(one, value)
        else:
            values[one.name] = tuple(value) if isinstance(value, list) else value
    return command.settings(**{**values, "flags": flags})


def keyword_of(one: CommandOption) -> str:
    """Return the keyword of an option: `--eval-data` is eval_data; `--no-shuffle` and `--pack/--no-pack` are shuffle and pack."""
    if one.name == "sets":
        return SETTINGS
    return one.option.flag.partition("/")[0].removeprefix("--").removeprefix("no-").replace("-", "_")


def _flags(one: CommandOption, value: object) -> dict[str, tuple[str, object]]:
    """Return the settings that a keyword sets, as the flag would; a value that is no text needs no parsing."""
    if isinstance(value, str) and not one.option.flag.startswith("--no-"):
        return one.flags(value)
    return {one.key: (one.option.flag.partition("/")[0], value)}


def _assigned(function: str, value: object) -> dict[str, tuple[str, object]]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"petrun.{function}({SETTINGS}=...): must be a mapping of keys", hint='settings={"optim.beta2": 0.95}'
        )
    return {str(key): (f"--set {key}", _plain(each)) for key, each in value.items()}


def _plain(value: object) -> Any:
    """Return paths as text, also those in a list."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


@contextmanager
def called_by_program(quiet: bool = False) -> Iterator[None]:
    """Run a command in the block. `quiet`: it prints nothing. An error of MindSpore or of the card becomes one of petrun's."""
    keep_quiet()
    try:
        with console.silenced(quiet):
            yield
    except RuntimeError as error:
        told = faults.as_petrun_error(error)
        if told is None:
            raise
        raise told from error
    except MemoryError as error:
        raise DeviceMemoryError("there is not enough memory", hint="Try a smaller batch_size or seq_len.") from error
