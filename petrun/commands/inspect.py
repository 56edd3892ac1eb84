"""`petrun inspect`: print what a file or folder holds. Loads no model."""

from __future__ import annotations

import json
from pathlib import Path

from petrun import console
from petrun.checkpoint.contents import contents_of
from petrun.console import table
from petrun.errors import DeltaError

_FIRST_TENSORS = 12


def run(path: str, *, tensors: bool, as_json: bool) -> None:
    """Describe a delta, a base, a run folder, a peft folder, a checkpoint or a strategy file.

    `tensors`: list all tensors instead of the first. Raises DeltaError and WeightsError.
    """
    given = Path(path).expanduser()
    if not given.exists():
        raise DeltaError(f"{path}: no such file or folder", hint="Give a delta, a base or a run folder.")
    found = contents_of(given)
    if as_json:
        console.print(json.dumps({**found.facts, "tensors": found.tensors}, indent=2, ensure_ascii=False))
        return
    console.print(table([(key, _text(value)) for key, value in found.facts.items() if value not in (None, {}, [], ())]))
    shown = list(found.tensors.items()) if tensors else list(found.tensors.items())[:_FIRST_TENSORS]
    width = max((len(name) for name, _ in shown), default=0)
    console.print("\n".join(f"  {name.ljust(width)}  {text}" for name, text in shown))
    if len(shown) < len(found.tensors):
        console.print(f"  ... and {len(found.tensors) - len(shown)} more (--tensors lists all)")


def _text(value: object) -> str:
    """Return a value of the description in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(each)}" for key, each in value.items() if each not in (None, {}, [], ()))
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
