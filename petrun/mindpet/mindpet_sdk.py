"""MindPet's SDK by its names: it can be imported, and each call names the command to use instead.

MindPet's functions start a script of the user's and return its result. petrun does not start boot scripts.
"""

from __future__ import annotations

from typing import NoReturn

from petrun.mindpet.utils.exceptions import UnexpectedError

_COMMANDS = {"finetune": "petrun train", "evaluate": "petrun eval", "infer": "petrun predict"}


def finetune(*args: object, **kwargs: object) -> NoReturn:
    """Raises UnexpectedError."""
    _refuse("finetune")


def evaluate(*args: object, **kwargs: object) -> NoReturn:
    """Raises UnexpectedError."""
    _refuse("evaluate")


def infer(*args: object, **kwargs: object) -> NoReturn:
    """Raises UnexpectedError."""
    _refuse("infer")


def _refuse(name: str) -> NoReturn:
    raise UnexpectedError(
        f"mindpet_sdk.{name}: petrun starts no boot script. Run the script itself, as "
        f"`python BOOT_FILE --data_path ... --output_path ...`, or let `{_COMMANDS[name]}` do what the script does."
    )
