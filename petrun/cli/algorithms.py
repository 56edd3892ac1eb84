"""`petrun algorithms`."""

from __future__ import annotations

from petrun.cli.command import Command
from petrun.config.commands.inspect import AlgorithmsSettings


def algorithms(settings: AlgorithmsSettings) -> None:
    """List the delta algorithms, or the settings of one (`petrun algorithms lora`).

    petrun algorithms lora
    petrun algorithms --json
    """
    # Imported here so that --help does not wait for MindSpore.
    from petrun.commands.algorithms import run

    run(settings.name, as_json=settings.as_json)


COMMAND = Command(name="algorithms", settings=AlgorithmsSettings, run=algorithms, options=("name", "as_json"))
