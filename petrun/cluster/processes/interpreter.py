"""Start a process of the same Python and the same petrun as this one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import petrun


def module_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command `python -m module arguments` with the interpreter that runs now, not the first one on PATH.

    `-m` looks into the current folder first, which may hold another petrun; -P (Python 3.11) prevents that, unless it is this one.
    """
    own = Path(petrun.__file__).resolve().parent.parent
    safe = ("-P",) if sys.version_info >= (3, 11) and own != Path(os.getcwd()).resolve() else ()
    return (sys.executable, *safe, "-m", module, *arguments)
