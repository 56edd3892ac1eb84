"""Read exit codes of the processes of a job, describe them, and decide whether another attempt may succeed."""

from __future__ import annotations

import signal

SUCCESS = 0
CONFIG_ERROR = 2
"""Exit code of errors.ConfigError: a command line or a setting is wrong, so every further attempt would fail as well."""
_OF_SIGNAL = 128
STOPPED = (_OF_SIGNAL + signal.SIGINT, _OF_SIGNAL + signal.SIGTERM)
"""Exit codes of a rank that was told to stop, and of those that stopped with it."""


def of_status(status: int) -> int:
    """Convert a return code of subprocess (-N after signal N) to the exit code of a shell (128 + N)."""
    return status if status >= 0 else _OF_SIGNAL - status


def of_signal(number: int) -> int:
    """Return the exit code of a process that signal `number` has ended."""
    return _OF_SIGNAL + number


def signal_name(code: int) -> str | None:
    """Return the name of the signal that an exit code stands for, such as SIGKILL; None where it stands for none."""
    try:
        return signal.Signals(code - _OF_SIGNAL).name
    except ValueError:
        return None


def may_be_retried(code: int) -> bool:
    """Return whether another attempt may succeed after one that ended with this code."""
    return code not in (SUCCESS, CONFIG_ERROR)


def describe(code: int) -> str:
    """Describe the end of a process for a message: `ended with exit code 1`, `was ended by SIGTERM`."""
    name = signal_name(code)
    if name is None:
        return f"ended with exit code {code}"
    memory = " (the kernel does that where memory runs out)" if name == "SIGKILL" else ""
    return f"was ended by {name}{memory}"
