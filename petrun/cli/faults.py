"""Turn an error of MindSpore or of the card into one of petrun's, with a code and a way out.

MindSpore raises RuntimeError for everything, and its text alone says what happened. The text is read here, and nowhere else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from petrun.errors import DeviceMemoryError, LinkError, PetrunError
from petrun.mindspore_messages import first_line

_FEWER = (
    "Fewer rows with --batch-size (and --accumulate), a shorter --seq-len, --recompute full; or cut the model over more cards with "
    "--parallel: `petrun rehearse` plans the memory of each."
)
_OTHERS = (
    "Another rank has ended, hangs or cannot be reached: the logs of all hosts say which failed first. `hccn_tool` checks links between "
    "cards; HCCL_CONNECT_TIMEOUT and HCCL_EXEC_TIMEOUT are how many seconds are waited."
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A kind of failure outside petrun, and the error that the user is shown for it."""

    pattern: re.Pattern[str]
    """Found in the text of MindSpore's error: its words, or a code of CANN or HCCL."""
    error: type[PetrunError]
    message: str
    hint: str


FAULTS = (
    Fault(
        pattern=re.compile(
            r"memory (isn't|is not|not) enough|out of memory|malloc device memory failed|EL0004", re.IGNORECASE
        ),
        error=DeviceMemoryError,
        message="the card's memory is not enough",
        hint=_FEWER,
    ),
    Fault(
        pattern=re.compile(r"EI000[26]|EI9999.*hccl|hccl.*time(d)? ?out", re.IGNORECASE),
        error=LinkError,
        message="HCCL waits in vain",
        hint=_OTHERS,
    ),
)


def as_petrun_error(error: RuntimeError) -> PetrunError | None:
    """Return the error that the user is shown for a failure outside petrun; None for one that is not known."""
    text = str(error)
    for fault in FAULTS:
        if fault.pattern.search(text):
            return fault.error(f"{fault.message}: {first_line(text, fault.pattern)}", hint=fault.hint)
    return None
