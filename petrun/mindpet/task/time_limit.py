"""MindPet's time limit: 1d2h."""

from __future__ import annotations

import re

from petrun.mindpet.utils.exceptions import MindPetError

_LIMIT = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?")


def seconds_of(text: str) -> int:
    """Return the seconds of a limit such as 1d2h, 90 minutes as 1h30m. Days, hours below 24 and minutes below 60, in this order.

    MindPet has days and hours only. Raises MindPetError.
    """
    read = _LIMIT.fullmatch(re.sub(r"\s", "", text).lower())
    days, hours, minutes = (int(part or 0) for part in read.groups()) if read else (0, 0, 0)
    seconds = ((days * 24 + hours) * 60 + minutes) * 60
    if not seconds or hours >= 24 or minutes >= 60:
        raise MindPetError(
            f"--timeout {text}: must be days, hours below 24 and minutes below 60, such as 1d2h or 30m, and not 0"
        )
    return seconds
