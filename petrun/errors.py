"""Every error that a user can cause, and nothing else.

    PetrunError
    ├── ConfigError     a flag, recipe or --set key is unknown, wrong or contradicts another
    ├── DataError       a data file, a row, a template or a tokenizer
    │   └── PromptTooLong   a prompt that leaves no position for an answer
    ├── ModelError      a model folder, its config.json, or a module:function factory
    ├── WeightsError    the base's tensors: missing, unknown, wrong shape, NaN, truncated file
    ├── DeltaError      a delta file, its manifest, or a delta that does not fit this base
    ├── TargetError     a pattern that matches nothing
    ├── TrainingError   nothing trainable, nothing supervised, NaN while training
    ├── OutputError     a file or folder that cannot be written, or would be overwritten
    └── SetupError      this machine or cluster: a missing package, compiler, device or kernel, or a wrong rank table

The command line prints `message` and `hint` and exits with 1 (ConfigError: 2); `--debug` shows the traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PetrunError(Exception):
    """A problem that the user can mend. `hint` says how: the way out, on a line of its own."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ConfigError(PetrunError):
    exit_code = 2


class DataError(PetrunError):
    pass


class PromptTooLong(DataError):
    pass


class ModelError(PetrunError):
    pass


class WeightsError(PetrunError):
    pass


class DeltaError(PetrunError):
    pass


class TargetError(PetrunError):
    pass


class TrainingError(PetrunError):
    pass


class OutputError(PetrunError):
    pass


class SetupError(PetrunError):
    pass


def nearest(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """The `count` candidates that look most like `name`, best first. Never `name` itself: it is what did not do."""
    known = sorted(set(candidates) - {name})
    lowered = {c.lower(): c for c in reversed(known)}
    hits = difflib.get_close_matches(name.lower(), list(lowered), n=count, cutoff=0.4)
    return [lowered[h] for h in hits]


def perhaps(name: str, candidates: Iterable[str]) -> str:
    """'Did you mean a?' where one is near, else ''. For lists of problems, where `did_you_mean` would say too much."""
    near = nearest(name, candidates, 1)
    return f"Did you mean {near[0]}?" if near else ""


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """'Did you mean a, b?' where anything is near, else 'Known: a, b, c.'."""
    known = sorted(set(candidates) - {name})
    near = nearest(name, known)
    if near:
        return f"Did you mean {', '.join(near)}?"
    return f"Known: {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}." if known else ""
