"""Shorten the long messages of MindSpore, CANN and HCCL to one line of plain text; nothing here imports MindSpore."""

from __future__ import annotations

import re

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
