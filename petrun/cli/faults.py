"""What MindSpore and the card say when they fail, in a line: which one of a long text, and where it is known, what to do about it."""

from __future__ import annotations

import re

_MEMORY = re.compile(
    r"memory (isn't|is not|not) enough|out of memory|malloc device memory failed|EL0004", re.IGNORECASE
)
_LOST = re.compile(r"EI000[26]|EI9999.*hccl|hccl.*time(d)? ?out", re.IGNORECASE)
_CANN = re.compile(r"\b(E[A-Z]\d{4}|E\d{5})\b")
_FEWER = (
    "Fewer rows with --batch-size (and --accumulate), a shorter --seq-len, --recompute full; or cut the model over more cards with "
    "--parallel: `petrun rehearse` plans the memory of each."
)
_OTHERS = (
    "Another rank has ended, hangs or cannot be reached: the logs of all hosts say which failed first. `hccn_tool` checks links between "
    "cards; HCCL_CONNECT_TIMEOUT and HCCL_EXEC_TIMEOUT are how many seconds are waited."
)


def known(error: RuntimeError) -> tuple[str, str] | None:
    """(message, hint) of a failure that is none of petrun; None for any other."""
    text = str(error)
    for pattern, message, hint in (
        (_MEMORY, "the card's memory is not enough", _FEWER),
        (_LOST, "HCCL waits in vain", _OTHERS),
    ):
        if pattern.search(text):
            return f"{message}: {first_line(text, pattern)}", hint
    return None


def first_line(text: str, wanted: re.Pattern[str] = _CANN) -> str:
    """The first line with what is wanted, such as an error code of CANN; else the first that is neither a rule nor a heading of
    MindSpore's."""
    lines = [line.strip() for line in text.splitlines()]
    told = [line for line in lines if line and not re.fullmatch(r"-{4,}|- .*:", line)]
    return next((line for line in told if wanted.search(line)), next(iter(told), ""))
