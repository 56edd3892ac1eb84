"""`petrun doctor`."""

from __future__ import annotations

from petrun.cli.command import Command
from petrun.config.commands.doctor import DoctorSettings


def doctor(settings: DoctorSettings) -> None:
    """Examine this machine: Python, MindSpore, CANN, driver, cards, disk, threads, ports; a line each, and the command that mends it.

    Ends with an exit code that is not 0 where something blocks. Several hosts: `petrun train --preflight --hosts N` compares them.

        petrun doctor
        petrun doctor --device ascend
    """
    from petrun.commands.doctor import run

    run(settings)


COMMAND = Command(name="doctor", settings=DoctorSettings, run=doctor, options=("device", "as_json"))
