"""`petrun resume`: continue the run in a folder, or verify its last steps."""

from __future__ import annotations

from petrun.commands import train
from petrun.config.commands.train import ResumeSettings
from petrun.training.checkpointing import verify as verifying


def run(settings: ResumeSettings) -> None:
    """Resume the run in its folder with the settings that it was started with, but for those that are given now; or with --verify replay
    its last steps, compare every bit, and write nothing. Raises PetrunError.
    """
    if settings.verify:
        verifying.verify(settings.run_folder, settings.sets)
    else:
        train.run(settings.training())
