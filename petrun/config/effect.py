"""Refuse options that have no effect on a command: its result would not be the one that was asked for.

Those of a training run are in petrun/training/setup/unused_settings.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from fnmatch import fnmatchcase
from typing import Any

from petrun.config.flags import flag_of
from petrun.config.options import Flags, Option, RunKeys, options_of
from petrun.config.resolved import Resolved, as_typed
from petrun.errors import ConfigError

BASE_KEYS = ("model.*", "device", "compile_cache")
"""Settings that every command reads which loads a base."""


def require_effect(settings: Any, names: Iterable[str], reason: str, hint: str = "Leave it out.") -> None:
    """Raise ConfigError for the fields of a command's record, by name, that have another value than their default.

    `reason`: why they have no effect on this command as it is given, such as "without --base".
    """
    defaults = {one.name: one.default for one in fields(settings)}
    options = options_of(type(settings))
    given = [_flag(options[name]) for name in names if getattr(settings, name) != defaults[name]]
    if given:
        raise ConfigError("\n".join(f"{flag}: has no effect {reason}" for flag in given), hint=hint)


def _flag(how: Option) -> str:
    return flag_of(how.key)[1].flag if how.key else how.flag


def require_no_run_keys(settings: RunKeys, reason: str) -> None:
    """Raise ConfigError for settings of a run that were given to a command, where it reads none of them."""
    given = [*(flag for flag, _ in settings.flags.values()), *(f"--set {text}" for text in settings.sets)]
    if given:
        raise ConfigError("\n".join(f"{flag}: has no effect {reason}" for flag in given), hint="Leave it out.")


def require_text(flags: Flags, generates: bool, reason: str) -> None:
    """Raise ConfigError for --max-new-tokens where a command generates no text. `reason`: why it does not."""
    if "eval.max_new_tokens" in flags and not generates:
        raise ConfigError(f"{flags['eval.max_new_tokens'][0]}: has no effect: {reason}", hint="Leave it out.")


def require_read(resolved: Resolved, read: Iterable[str]) -> None:
    """Raise ConfigError for settings that were given and that a command does not read.

    `read`: the keys that it reads, `model.*` for a section.
    """
    known = tuple(read)
    unread = [
        key for key in resolved.origins if resolved.given(key) and not any(fnmatchcase(key, each) for each in known)
    ]
    if unread:
        raise ConfigError(
            "\n".join(f"{as_typed(key, resolved.origins)}: has no effect on this command" for key in unread),
            hint=f"It reads {', '.join(known)}.",
        )
