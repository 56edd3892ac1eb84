"""Make the pictures of docs/pictures.md: pages in a headless Chromium, and commands in a terminal of a fixed width.

    python scripts/make_pictures.py --folder FOLDER [--only NAME,NAME]

FOLDER gets the runs that the pictures show, or has them from an earlier call. Needs `chromium` (Debian: apt-get install chromium) and, for
Chinese text, a font that has it (fonts-noto-cjk).
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
from dataclasses import dataclass
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "pictures"
COLUMNS, LINE, MARGIN = 110, 18, 14
"""A terminal: characters in a line; pixels of a line, and around all of them."""
HIDDEN = 90
"""Pixels at the end of a window that a headless Chromium takes for its own bars, and leaves empty."""
STYLE = (
    f"<style>body{{margin:{MARGIN}px;font-size:14px}} pre{{line-height:{LINE}px;margin:0}} "
    "code{font-family:'DejaVu Sans Mono','Noto Sans Mono CJK SC'!important}</style>"
)
RUNS = {
    "orders": "train --algo lora --rank 8 --out runs/orders",
    "ia3": "train --algo ia3 --steps 60 --metrics loss --out runs/ia3",
}
"""Runs that the pictures show: folder below runs/ -> arguments of petrun."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture, and the command that it shows."""

    name: str
    arguments: str
    """What follows `petrun`."""
    page: str = ""
    """The page that the command writes; "" for the terminal itself."""
    size: tuple[int, int] = (1180, 900)
    """Width and height in pixels, of a page."""
    dark: bool = False
    lines: tuple[int, int | None] = (0, None)
    """The lines of a terminal, as of a slice."""


REPORT = "report runs/orders --out report.html"
PICTURES = (
    Picture(name="report", arguments=REPORT, page="report.html", size=(1000, 1400)),
    Picture(name="report-dark", arguments=REPORT, page="report.html", dark=True),
    Picture(name="report-phone", arguments=REPORT, page="report.html", size=(400, 1250)),
    Picture(
        name="compare",
        arguments="report runs/orders runs/ia3 --out compare.html",
        page="compare.html",
        size=(1000, 1400),
    ),
    Picture(name="plan", arguments="plan --algo lora --rank 8", lines=(0, 40)),
    Picture(name="train", arguments="train --algo lora --rank 8 --steps 40 --out runs/short", lines=(-34, None)),
    Picture(name="watch", arguments="watch runs/orders --once"),
    Picture(name="doctor", arguments="doctor"),
    Picture(name="error", arguments="train --algo lora --target q_porj,v_proj --out runs/wrong"),
)


def petrun(folder: Path, arguments: str) -> None:
    """Run a command of petrun in the folder. Raises CalledProcessError."""
    subprocess.run([sys.executable, "-m", "petrun", *shlex.split(arguments)], cwd=folder, env=environment(), check=True)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}


def terminal(folder: Path, arguments: str) -> str:
    """Return what a command writes to a terminal of COLUMNS columns, with its colours, and without the folders of this machine."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "petrun", *shlex.split(arguments)]
    running = subprocess.Popen(command, cwd=folder, env=environment(), stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            # Linux says so when the last process has closed the terminal.
            break
        if not part:
            break
        parts.append(part)
    running.wait()
    text = b"".join(parts).decode("utf-8", errors="replace")
    for path in (ROOT, Path(sys.prefix), folder.resolve(), Path.home()):
        text = text.replace(str(path), "...")
    return text


def terminal_page(picture: Picture, written: str) -> tuple[str, int]:
    """Return the page of a terminal that shows the command and what it wrote, and its height in pixels."""
    lines = list(AnsiDecoder().decode(written.replace("\r\n", "\n").rstrip()))
    first, last = picture.lines
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(Text(f"$ petrun {picture.arguments}", style="bold"))
        left_out = [Text("...")]
        for line in [
            *left_out * (first != 0),
            *lines[first:last],
            *left_out * (last is not None and last < len(lines)),
        ]:
            console.print(line)
        rows = len(console.export_text(clear=False).splitlines())
        html = console.export_html(theme=MONOKAI, inline_styles=True)
    return html.replace("</head>", f"{STYLE}</head>"), LINE * rows + 2 * MARGIN + HIDDEN


def photograph(page: Path, out: Path, size: tuple[int, int], dark: bool, chromium: str) -> None:
    """Write a picture of a page as a headless Chromium shows it. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as profile:
        flags = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
            *("--disable-component-update", "--disable-sync", "--hide-scrollbars", f"--user-data-dir={profile}"),
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--window-size={size[0]},{size[1]}",
            f"--screenshot={out}",
        ]
        subprocess.run([chromium, *flags, page.resolve().as_uri()], check=True, capture_output=True, timeout=300)


def make(picture: Picture, folder: Path, chromium: str) -> Path:
    """Make one picture and return its path."""
    out = OUT / f"{picture.name}.png"
    if picture.page:
        page, size = folder / picture.page, picture.size
        petrun(folder, picture.arguments)
    else:
        html, height = terminal_page(picture, terminal(folder, picture.arguments))
        page, size = folder / f"{picture.name}.html", (COLUMNS * 9 - 40, height)
        page.write_text(html, encoding="utf-8")
    photograph(page, out, size, picture.dark, chromium)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are, or are made")
    parser.add_argument("--only", default="", help="names of pictures, comma-separated")
    parser.add_argument("--chromium", default="chromium", help="the browser's program")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    OUT.mkdir(exist_ok=True)
    for name, arguments in RUNS.items():
        if not (given.folder / "runs" / name / "results.json").exists():
            petrun(given.folder, arguments)
    for picture in PICTURES:
        if not given.only or picture.name in given.only.split(","):
            out = make(picture, given.folder, given.chromium)
            print(f"{out.relative_to(ROOT)}: {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
