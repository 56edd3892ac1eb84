"""What MindSpore and the card say when they fail, in a line: which one of a long text, and where it is known, what to do about it."""

from __future__ import annotations

import re

from petrun.mindspore_messages import first_line

_MEMORY = re.compile(
    r"memory (isn't|is not|not) enough|out of memory|malloc device memory failed|EL0004", re.IGNORECASE
)
_LOST = re.compile(r"EI000[26]|EI9999.*hccl|hccl.*time(d)? ?out", re.IGNORECASE)
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
