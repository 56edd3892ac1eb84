"""`petrun inspect`."""

from __future__ import annotations

from petrun.cli.command import Command
from petrun.config.commands.inspect import InspectSettings


def inspect(settings: InspectSettings) -> None:
    """Say what a file or folder holds: algorithm, settings, base, task, metrics and tensors. Loads no model.

    petrun inspect runs/lora-1
    petrun inspect ./llama --tensors
    """
    from petrun.commands.inspect import run

    run(settings.path, tensors=settings.tensors, as_json=settings.as_json)


COMMAND = Command(name="inspect", settings=InspectSettings, run=inspect, options=("path", "tensors", "as_json"))
