"""`petrun resume`."""

from __future__ import annotations

import typer

from petrun.cli.cluster import launch
from petrun.cli.command import Command
from petrun.cli.signals import distinguish_signals
from petrun.cli.train import SAVING
from petrun.config.commands.launch import LAUNCH_FIELDS
from petrun.config.commands.train import ResumeSettings
from petrun.errors import ConfigError


def resume(settings: ResumeSettings) -> None:
    """Resume a run that was stopped or killed, as if it had not been: bit-exact on the CPU.

    The folder holds all settings. Settings or data that differ from those of the run are refused, key by key, unless --allow names them. A
    run of several ranks needs the same number of ranks, started as `petrun train` starts them.

        petrun resume runs/lora-1
        petrun resume runs/lora-2 --cards 8
    """
    given = settings.launch_flags()
    if given and settings.verify:
        raise ConfigError(f"--verify: resumes in this process alone, without {next(iter(given))}")
    code = launch(settings.training(), COMMAND)
    if code is not None:
        raise typer.Exit(code)
    with distinguish_signals():
        # Imported here so that --help does not wait for MindSpore.
        from petrun.commands.resume import run

        run(settings)


COMMAND = Command(
    name="resume",
    settings=ResumeSettings,
    run=resume,
    options=("run_folder", "verify", "allow", *SAVING, "compile_cache", "memory_check", "sets", *LAUNCH_FIELDS),
)
