"""Define every error that a user can cause, and nothing else.

    class                     code                  raised for
    PetrunError               petrun                any of the errors below
    ├── ConfigError           config                a flag, recipe or --set key is unknown, wrong or contradicts another
    ├── DataError             data                  a data file, a row, a template or a tokenizer
    │   └── PromptTooLong     data.prompt_too_long  a prompt that leaves no position for an answer
    ├── ModelError            model                 a model folder, its config.json, or a module:function factory
    ├── WeightsError          weights               the base's tensors: missing, unknown, wrong shape, NaN, truncated file
    ├── DeltaError            delta                 a delta file, its manifest, or a delta that does not fit this base
    ├── TargetError           target                a pattern that matches nothing
    ├── TrainingError         training              nothing trainable, nothing supervised, NaN while training
    ├── OutputError           output                a file or folder that cannot be written, or would be overwritten
    └── SetupError            setup                 this machine or cluster: a missing package, compiler, device or kernel
        ├── DeviceMemoryError setup.device_memory   the card's memory is not enough
        └── LinkError         setup.link            the ranks do not reach each other through HCCL

Code that must tell errors apart compares `code` (or the class), never the text of a message. A raise statement may give a longer code
below that of its class: `DataError("...", code="data.columns")`. The command line prints `message` and `hint` and exits with 1
(ConfigError: 2); `--debug` shows the traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import ClassVar


class PetrunError(Exception):
    """A problem that the user can correct. `hint` says how, on a line of its own."""

    class_code: ClassVar[str] = "petrun"
    exit_code: int = 1

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.class_code
        """Stable name of the kind of error: `class_code`, or a name below it."""

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ConfigError(PetrunError):
    class_code = "config"
    exit_code = 2


class DataError(PetrunError):
    class_code = "data"


class PromptTooLong(DataError):
    class_code = "data.prompt_too_long"


class ModelError(PetrunError):
    class_code = "model"


class WeightsError(PetrunError):
    class_code = "weights"


class DeltaError(PetrunError):
    class_code = "delta"


class TargetError(PetrunError):
    class_code = "target"


class TrainingError(PetrunError):
    class_code = "training"


class OutputError(PetrunError):
    class_code = "output"


class SetupError(PetrunError):
    class_code = "setup"


class DeviceMemoryError(SetupError):
    class_code = "setup.device_memory"


class LinkError(SetupError):
    class_code = "setup.link"


def error_classes() -> Iterator[type[PetrunError]]:
    """Return the classes of this module, in the order of the docstring."""
    return (kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, PetrunError))


def nearest(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """Return the `count` candidates most similar to `name`, best first, without `name` itself."""
    known = sorted(set(candidates) - {name})
    lowered = {c.lower(): c for c in reversed(known)}
    hits = difflib.get_close_matches(name.lower(), list(lowered), n=count, cutoff=0.4)
    return [lowered[h] for h in hits]


def perhaps(name: str, candidates: Iterable[str]) -> str:
    """Return 'Did you mean a?' where one is near, else ''. For lists of problems, where `did_you_mean` is too long."""
    near = nearest(name, candidates, 1)
    return f"Did you mean {near[0]}?" if near else ""


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return 'Did you mean a, b?' where anything is near, else 'Known: a, b, c.'."""
    known = sorted(set(candidates) - {name})
    near = nearest(name, known)
    if near:
        return f"Did you mean {', '.join(near)}?"
    return f"Known: {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}." if known else ""
