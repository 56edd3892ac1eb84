"""Pages of docs/ as programs: the commands of their console blocks, run as a reader would, and compared with what the page shows.

A line of a ```console block that begins with `$ ` is a command, one that ends with a backslash goes on in the next line, and all others are
what the command printed: `...` stands for what was left out, as a line for lines and within a line for a part of it. A ```python or
```yaml block whose first line is `# NAME.py` or `# NAME.yaml` is a file of that name.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_NUMBER = re.compile(r"\b[0-9a-f]{12,}\b|(?<![\w#])[-+]?\d+(?:[,.:]\d+)*(?:e[-+]?\d+)?")
_CURVE = re.compile("[▁▂▃▄▅▆▇█]+")
_MARK = "=>>"
"""Begins the line by which bash says that a command has ended: its code, and the time."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command, and the lines that the page shows below it."""

    command: str
    shown: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A command that was run."""

    step: Step
    code: int
    printed: str
    """Standard output and standard error, in the order in which they came."""
    seconds: float

    @property
    def lacking(self) -> list[str]:
        """The lines that the page shows and the command did not print, apart from figures."""
        there = [without_figures(line) for line in self.printed.splitlines()]
        lost = []
        for line in self.step.shown:
            parts = [without_figures(part) for part in line.split("...")]
            pattern = re.compile(".*".join(map(re.escape, parts)))
            if any(parts) and not any(pattern.fullmatch(found) for found in there):
                lost.append(line)
        return lost


def blocks(page: Path, kind: str) -> list[str]:
    """Return the contents of the page's blocks of a kind, `console` or `python`."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def steps(page: Path) -> list[Step]:
    """Return the commands of the page in their order."""
    found: list[Step] = []
    for line in re.sub(r"\\\n\s*", "", "".join(blocks(page, "console"))).splitlines():
        if line.startswith("$ "):
            found.append(Step(command=line[2:], shown=()))
        else:
            found[-1] = Step(command=found[-1].command, shown=(*found[-1].shown, line))
    return found


def programs(page: Path) -> dict[str, str]:
    """Return the files that the page shows: name -> content."""
    texts = [*blocks(page, "python"), *blocks(page, "yaml")]
    named = ((re.match(r"# (\w+\.(?:py|yaml))\n", text), text) for text in texts)
    return {name[1]: text for name, text in named if name}


def without_figures(line: str) -> str:
    """Return a line with its numbers as #, its curves as =, and one space where there are several: its words."""
    return " ".join(_CURVE.sub("=", _NUMBER.sub("#", line)).split())


def view(folder: Path, clone: Path, python: Path) -> dict[str, str]:
    """Make a folder in which commands find `petrun/` of a clone. Return the variables with which they run its program."""
    own = folder / ".bin"
    own.mkdir(parents=True)
    for name, call in (("petrun", "-m petrun"), ("python", "")):
        (own / name).write_text(f'#!/bin/sh\nexec "{python}" {call} "$@"\n', encoding="utf-8")
        (own / name).chmod(0o755)
    (folder / "petrun").symlink_to(clone / "petrun")
    return {"PATH": str(own), "PYTHONPATH": str(clone)}


def run(page: Path, folder: Path, environment: Mapping[str, str], asked: Sequence[Step] | None = None) -> list[Ran]:
    """Run commands of a page, by default all, in one bash, up to the first that fails. What installs petrun is left out."""
    for name, text in programs(page).items():
        (folder / name).write_text(text, encoding="utf-8")
    chosen = [step for step in (steps(page) if asked is None else asked) if not step.command.startswith("pip ")]
    lines = ["exec 2>&1", f"printf '{_MARK} 0 %s\\n' $EPOCHREALTIME"]
    for step in chosen:
        report = f"code=$?; printf '\\n{_MARK} %s %s\\n' $code $EPOCHREALTIME; [ $code = 0 ] || exit $code"
        lines += [step.command, report]
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)], cwd=folder, env=environment, stdout=subprocess.PIPE, encoding="utf-8"
    )
    # What was printed before a mark, its code, its time, what was printed before the next one, ...
    parts = re.split(rf"^{_MARK} (\d+) (\S+)\n", done.stdout, flags=re.MULTILINE)
    ran = []
    for number, step in enumerate(chosen[: len(parts) // 3 - 1]):
        begun, printed, code, now = parts[3 * number + 2 : 3 * number + 6]
        ran.append(Ran(step=step, code=int(code), printed=printed, seconds=float(now) - float(begun)))
    return ran
