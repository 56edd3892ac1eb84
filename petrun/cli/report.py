"""`petrun report` and `petrun watch`."""

from __future__ import annotations

from petrun.cli.command import Command
from petrun.config.commands.report import ReportSettings, WatchSettings


def report(settings: ReportSettings) -> None:
    """Write one HTML page of runs: curves over each other, differences in settings, scores, receipts, samples before and after.

    The page holds all that it shows: it opens without a network, in light and dark, and on a phone.

        petrun report runs/lora-1
        petrun report runs/lora-1 runs/ia3-1 --out compare.html --png
    """
    from petrun.commands.report import run

    run(settings)


def watch(settings: WatchSettings) -> None:
    """Follow a run in the terminal from its folder alone: loss, rate, throughput, evaluations, the time that is left.

    It ends with the run. The run may be of other hosts that share the folder.

        petrun watch runs/lora-1
        petrun watch runs/lora-1 --once
    """
    from petrun.commands.watch import run

    run(settings)


REPORT = Command(name="report", settings=ReportSettings, run=report, options=("runs", "out", "png"))
WATCH = Command(name="watch", settings=WatchSettings, run=watch, options=("run_folder", "interval", "once"))
