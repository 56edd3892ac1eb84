"""`petrun report`: one HTML page of runs, made of their folders alone."""

from __future__ import annotations

from pathlib import Path

from petrun import console
from petrun.config.commands.report import ReportSettings
from petrun.errors import ConfigError
from petrun.tensors.output import check_file, write_text
from petrun.training.report.page import page
from petrun.training.report.screenshot import find_browser, write_png
from petrun.training.run_record import RunRecord, read_run

_NAME = "report.html"


def run(settings: ReportSettings) -> Path:
    """Write the page, into the folder of a single run by default, and return its path. Raises ConfigError and OutputError."""
    runs = [read_run(folder) for folder in settings.runs]
    _require_different(runs)
    default = runs[0].folder / _NAME if len(runs) == 1 else Path(_NAME)
    out = Path(settings.out).expanduser() if settings.out is not None else default
    picture = out.with_suffix(".png")
    written = {_NAME, Path(_NAME).with_suffix(".png").name}
    inputs = [file for one in runs for file in one.folder.iterdir() if file.name not in written]
    check_file("--out", str(out), inputs)
    browser = find_browser() if settings.png else None
    if settings.png and picture == out:
        raise ConfigError(f"--out {out}: is where --png puts the picture", hint="Give the page a name in .html.")
    if browser is not None:
        check_file("--png", str(picture), inputs)
    text = page(runs)
    write_text(out, text)
    console.tell(f"wrote {out}")
    if browser is not None:
        height = write_png(browser, text, picture)
        console.tell(f"wrote {picture}, {height} pixels tall")
    return out


def _require_different(runs: list[RunRecord]) -> None:
    folders = [one.folder.resolve() for one in runs]
    twice = [one.folder for one, folder in zip(runs, folders, strict=True) if folders.count(folder) > 1]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice", hint="Give each run once.")
