"""`petrun.load`: text from a base and its deltas, from a program."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from petrun.api.calls import called_by_program
from petrun.api.training import Place
from petrun.config.commands.text import SessionSettings

if TYPE_CHECKING:
    from petrun.inference.generation.session import Session


def load(
    base: Place | None = None,
    *deltas: Place,
    model: str | None = None,
    template: Place | None = None,
    alpha: float | None = None,
    device: str | None = None,
    batch_size: int = 8,
    settings: Mapping[str, object] | None = None,
) -> Session:
    """Load a base (None: the embedded one) and deltas, of which the first answers, as `petrun generate` does.

        session = petrun.load("./llama", "runs/lora-1")
        print(session.generate("Extract the order. ...").text)

    `deltas`: run folders, delta files, adapter folders of peft; "NAME=PATH" names one. Each takes the template that it was trained with.
    The other keywords are the flags of `petrun generate`. Raises PetrunError, as Session.open says.
    """
    given = SessionSettings(
        base=None if base is None else os.fspath(base),
        deltas=tuple(os.fspath(delta) for delta in deltas),
        model=model,
        template=None if template is None else os.fspath(template),
        alpha=alpha,
        device=device,
        batch_size=batch_size,
        settings=tuple(f"{key}={_yaml(value)}" for key, value in (settings or {}).items()),
    )
    with called_by_program():
        from petrun.commands.generate import open_session

        return open_session(given, None)


def _yaml(value: object) -> str:
    """Return a value as --set takes it: JSON is YAML."""
    import json

    return json.dumps(value)
