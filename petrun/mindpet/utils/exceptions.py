"""MindPet's exceptions, as far as its freeze and callback interfaces and its tasks raise them."""

from __future__ import annotations

from petrun.errors import PetrunError


class MindPetError(PetrunError):
    """Any of these exceptions. `error_info` is the message."""

    def __init__(self, error_info: str | None = None) -> None:
        super().__init__(error_info or "")
        self.error_info = error_info


class UnexpectedError(MindPetError):
    """Patterns given beside a mode do not read, or a freeze configuration does not."""


class ReadYamlFileError(MindPetError):
    """A freeze configuration is missing, or is a link."""


class LinkPathError(MindPetError):
    """A path is a symbolic link."""


class AbsolutePathError(MindPetError):
    """A path is not absolute."""


class ModelConfigFreezeInfoError(MindPetError):
    """A freeze configuration does not say what to freeze."""


class ModelConfigKeysInfoError(MindPetError):
    """A model configuration has a key beside params and freeze."""


class ModelConfigParamsInfoError(MindPetError):
    """`params` of a model configuration cannot become arguments."""


class MakeDirError(MindPetError):
    """The folder of a task cannot be made."""


class ManualCancelError(MindPetError):
    """The user answered no."""


class TaskError(MindPetError):
    """A boot script failed or ran out of time, or its result is missing."""
