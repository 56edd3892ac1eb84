"""`petrun watch`: follow a run from its folder alone, also a run on other hosts that share the folder."""

from __future__ import annotations

import sys
import time

from petrun import console
from petrun.config.commands.report import WatchSettings
from petrun.errors import ConfigError
from petrun.training.report.watch import RunView
from petrun.training.run_record import read_run


def run(settings: WatchSettings) -> None:
    """Show the run, and again when its log grows, until it ends. On a terminal the view is drawn in place; elsewhere a line for each news.

    Raises ConfigError for a folder that holds no run, and for an interval that is not positive.
    """
    if settings.interval <= 0:
        raise ConfigError(f"--interval {settings.interval:g}: must be above 0")
    view = RunView(read_run(settings.run_folder))
    live = console.LiveText() if sys.stdout.isatty() else None
    shown = ""
    while True:
        text = view.text() if live is not None or settings.once else view.line()
        if live is not None:
            live.show(text)
        elif text != shown:
            console.print(text)
        shown = text
        if settings.once or view.ended:
            return
        time.sleep(settings.interval)
        view.read_on()
