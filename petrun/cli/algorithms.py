"""`petrun algorithms`."""

from __future__ import annotations

from typing import Annotated

import typer

from petrun.cli.options import Text, complete_algorithm


def algorithms(
    name: Annotated[
        Text,
        typer.Argument(
            help="One of them, or several joined by +: its settings and their defaults.",
            show_default=False,
            autocompletion=complete_algorithm,
        ),
    ] = None,
) -> None:
    """List the delta algorithms, or the settings of one (`petrun algorithms lora`)."""
    # Imported here so that --help does not wait for MindSpore.
    from petrun.commands.algorithms import run

    run(name)
