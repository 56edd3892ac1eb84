"""Write a page as a picture, by a Chromium or Chrome without a window."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from petrun.errors import OutputError, SetupError

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_WIDTH, _TALLEST = 1280, 16384
"""Pixels. Chromium draws no taller picture in one piece."""
_SECONDS = 120.0
_MEASURE = "<script>document.title = 'height ' + document.documentElement.scrollHeight</script>"
# The page is petrun's own, runs nothing and loads nothing; the sandbox cannot start in most containers, nor for root.
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


def find_browser() -> str:
    """Return the program. Raises SetupError where none is on PATH."""
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise SetupError(
            f"--png: no browser draws the page: none of {', '.join(_BROWSERS)} is on PATH",
            hint="apt-get install chromium; or leave --png out, and open the page in any browser.",
        )
    return found


def write_png(browser: str, page: str, png: Path) -> int:
    """Draw the page at its full height, 1280 pixels wide, in light colours. Returns the height in pixels, at most 16384.

    Raises OutputError where the browser writes no picture.
    """
    with tempfile.TemporaryDirectory(prefix="petrun-report-") as scratch:
        file = Path(scratch) / "page.html"
        file.write_text(page.replace("</body>", f"{_MEASURE}</body>"), "utf-8", "backslashreplace")
        measured = re.search(r"<title>height (\d+)</title>", _run(browser, scratch, ["--dump-dom", file.as_uri()], 900))
        if measured is None:
            raise OutputError(f"--png: {browser} does not say how tall the page is", hint="Open the page in a browser.")
        height = min(int(measured[1]), _TALLEST)
        drawn = Path(scratch) / "page.png"
        said = _run(browser, scratch, [f"--screenshot={drawn}", file.as_uri()], height)
        if not drawn.is_file():
            raise OutputError(f"--png: {browser} wrote no picture: {said.strip()[-300:] or 'it says nothing'}")
        shutil.copyfile(drawn, png)
    return height


def _run(browser: str, scratch: str, words: list[str], height: int) -> str:
    command = [browser, *_FLAGS, f"--user-data-dir={scratch}/profile", f"--window-size={_WIDTH},{height}", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OutputError(f"--png: {browser} does not run: {error}") from error
    return done.stdout + done.stderr
