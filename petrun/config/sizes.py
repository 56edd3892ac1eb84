"""Read sizes as users type them: 500MB, 5GB."""

from __future__ import annotations

import re

from petrun.errors import ConfigError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def size_in_bytes(flag: str, text: str) -> int:
    """Return a number of bytes. Raises ConfigError for a text that is no size above 0."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if not found or found.group(2).upper() not in _UNITS or float(found.group(1)) <= 0:
        raise ConfigError(f"{flag} {text} is not a size", hint="Examples: 500MB, 5GB.")
    return int(float(found.group(1)) * _UNITS[found.group(2).upper()])
