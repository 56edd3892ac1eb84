"""`petrun inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from petrun.cli import options


def inspect(
    path: Annotated[
        str, typer.Argument(help="A delta, a base, a run folder, a peft folder, a checkpoint or a strategy file.")
    ],
    tensors: Annotated[bool, options.option("--tensors", "List every tensor, not only the first ones.")] = False,
    as_json: Annotated[bool, options.option("--json", "Print one JSON object.")] = False,
) -> None:
    """Say what a file or folder holds: algorithm, settings, base, task, metrics and tensors. Loads no model."""
    from petrun.commands.inspect import run

    run(path, tensors=tensors, as_json=as_json)
