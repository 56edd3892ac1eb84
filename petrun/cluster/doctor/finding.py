"""The verdict of one check, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "note", "blocks"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Holds one line of the examination."""

    name: str
    verdict: Verdict
    """"note": petrun works, but slower, or not on cards; "blocks": it does not work."""
    text: str
    mend: str = ""
    """The command, or the step, that mends it; "" where all is well."""
