"""`petrun ranktable lint|show|make|convert`."""

from __future__ import annotations

from typing import Any

import typer

from petrun.cli.command import Command
from petrun.config.commands.rank_table import ConvertTableSettings, LintSettings, MakeSettings, ShowSettings

app = typer.Typer(
    help="Rank tables of Ascend clusters, v1.0 and v1.2: check one, explain it, make one, convert it.",
    no_args_is_help=True,
)


def lint(settings: LintSettings) -> None:
    """Check a rank table against the rules of HCCL: exit code 0 where it can be used, 1 where not.

    petrun ranktable lint hccl.json
    """
    from petrun.commands import rank_table

    if not rank_table.lint(settings):
        raise typer.Exit(1)


def show(settings: ShowSettings) -> None:
    """Say which process gets which rank on which server and device.

    petrun ranktable show hccl.json
    """
    from petrun.commands import rank_table

    rank_table.show(settings)


def make(settings: MakeSettings) -> None:
    """Make a rank table. Ranks follow the order of hosts and devices.

    petrun ranktable make --hosts 10.0.0.1,10.0.0.2 --cards-per-host 8 --hccn 10.0.0.1=a.conf --hccn 10.0.0.2=b.conf
    """
    from petrun.commands import rank_table

    rank_table.make_table(settings)


def convert(settings: ConvertTableSettings) -> None:
    """Convert a rank table between v1.0 and v1.2 or from the group_list format before them, or add pod_ip.

    Values that the file lacks must be given, none are invented. Unknown keys stay. What is left out is listed on standard error.

        petrun ranktable convert hccl.json --to 1.2 --super-pod 0=10.0.0.1,10.0.0.2 --out hccl-1.2.json
    """
    from petrun.commands import rank_table

    rank_table.convert_table(settings)


_WRITTEN = ("pod_ips", "out", "force")
_PODS = ("super_pod", "super_device_ids")
COMMANDS: tuple[Command[Any], ...] = (
    Command(name="lint", settings=LintSettings, run=lint, options=("file", "card", "start", "wait")),
    Command(name="show", settings=ShowSettings, run=show, options=("file", "start", "host")),
    Command(
        name="make",
        settings=MakeSettings,
        run=make,
        options=("hosts", "cards_per_host", "devices", "device_ips", "hccn", "version", *_PODS, *_WRITTEN),
    ),
    Command(
        name="convert",
        settings=ConvertTableSettings,
        run=convert,
        options=("file", "to", "super_pod", "super_device_ids", "device_ips", *_WRITTEN),
    ),
)
for command in COMMANDS:
    command.add_to(app)
