"""`petrun report` and `petrun watch`."""

from __future__ import annotations

from dataclasses import dataclass

from petrun.config.choices import run_choices
from petrun.config.options import argument, option


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """The runs of a page, and where it goes."""

    runs: tuple[str, ...] = argument("Folders of runs, finished or not.", metavar="RUN...", choices=run_choices)
    out: str | None = option("--out", "The page. Default: report.html in the folder of the run; of several runs, here.")
    png: bool = option(
        "--png", "Also write the page as a picture beside it, as .png. Needs Chromium or Chrome on PATH.", default=False
    )


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """The run that is followed."""

    run_folder: str = argument("Folder of a run.", metavar="RUN", choices=run_choices)
    interval: float = option("--interval", "Seconds from one look at the log to the next. Default 2.", default=2.0)
    once: bool = option("--once", "Show the run as it is now, and end.", default=False)
