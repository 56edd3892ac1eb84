"""Read the errors by which MindSpore's front end refuses a graph: the reason in one line."""

from __future__ import annotations

import re

from petrun.mindspore_messages import message_lines

FRONT_END_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, NameError, AssertionError)
"""Errors raised for a graph that the front end refuses: its own, and Python's errors that a construct would raise."""


def front_end_reason(log: str, error: str) -> str:
    """Return the reason of a refusal in one line. MindSpore's parallel passes name the operator and the strategy in their log."""
    told = re.findall(r"^\[ERROR\] PARALLEL\(.*?\] (?:\w+\] )?(.+)$", log, re.MULTILINE)
    raised = message_lines(error)
    reason = next(iter(told), None)
    operator = next((line for line in raised if "init failed" in line or "operator" in line.lower()), None)
    parts = [part for part in (reason, operator) if part]
    lines = re.findall(r"In file (\S+?):(\d+)", error)
    where = f" (at {lines[-1][0]}:{lines[-1][1]})" if lines else ""
    return "; ".join(dict.fromkeys(parts or raised[:1] or ["no reason given"])) + where
