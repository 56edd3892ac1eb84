"""`petrun algorithms`."""

from __future__ import annotations

from petrun.cli.command import Command
from petrun.config.commands.inspect import AlgorithmsSettings


def algorithms(settings: AlgorithmsSettings) -> None:
    """List the delta algorithms, or the settings of one (`petrun algorithms lora`).

    petrun algorithms lora
    """
    # Imported here so that --help does not wait for MindSpore.
    from petrun.commands.algorithms import run

    run(settings.name)


COMMAND = Command(name="algorithms", settings=AlgorithmsSettings, run=algorithms, options=("name",))
