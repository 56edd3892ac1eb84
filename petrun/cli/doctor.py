"""`petrun doctor`."""

from __future__ import annotations

import typer

from petrun.cli.command import Command
from petrun.config.commands.doctor import DoctorSettings


def doctor(settings: DoctorSettings) -> None:
    """Examine this machine: Python, MindSpore, CANN, driver, cards, disk, threads, ports; a line each, and the command that mends it.

    Ends with an exit code that is not 0 where something blocks. With --cards, ranks add a small sum, also over several hosts.

        petrun doctor
        petrun doctor --device ascend
        petrun doctor --versions
        petrun doctor --reach 10.0.0.1,10.0.0.2
        petrun doctor --cards 16 --hosts 2 --host-rank 0 --master-addr 10.0.0.1 --out /shared/doctor
    """
    from petrun.commands.doctor import run

    code = run(settings)
    if code:
        raise typer.Exit(code)


COMMAND = Command(
    name="doctor",
    settings=DoctorSettings,
    run=doctor,
    options=(
        "device",
        "versions",
        "as_json",
        "cards",
        "hosts",
        "host_rank",
        "master_addr",
        "master_port",
        "out",
        "rank_table",
        "reach",
    ),
)
