"""Keep MindSpore's own log quiet, and shorten the long messages of MindSpore, CANN and HCCL to one line of plain text.

Nothing here imports MindSpore.
"""

from __future__ import annotations

import os
import re
import tempfile

_NO_CONTENT = re.compile(r"-{2,}|- .*|#.*")
"""A rule, a heading between rules, a position in the trace of the front end."""
CANN_CODE = re.compile(r"\b(E[A-Z]\d{4}|E\d{5})\b")
"""The code of an error of CANN or HCCL."""


def message_lines(text: str) -> list[str]:
    """Return the lines with content: stripped, without rules, headings and numbered positions of a trace."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not _NO_CONTENT.fullmatch(line)]


def first_line(text: str, pattern: re.Pattern[str] = CANN_CODE) -> str:
    """Return the first line in which `pattern` is found, else the first line with content, else ""."""
    lines = message_lines(text)
    return next((line for line in lines if pattern.search(line)), next(iter(lines), ""))


def keep_quiet(debug: bool = False) -> None:
    """Say what MindSpore writes by itself, unless the environment does. Call it before MindSpore is imported."""
    # MindSpore's own log is for its developers: it raises the errors that matter to a user as well.
    os.environ.setdefault("GLOG_v", "3" if debug else "4")
    # MindSpore dumps a graph that does not compile here; by default it would use the current folder.
    os.environ.setdefault("MS_OM_PATH", os.path.join(tempfile.gettempdir(), f"petrun-{os.getuid()}"))
