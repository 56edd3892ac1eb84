"""`petrun resume`: continue the run in a folder, or verify its last steps."""

from __future__ import annotations

from collections.abc import Sequence

from petrun.commands import train
from petrun.training.checkpointing import verify as verifying
from petrun.training.checkpointing.resume import Flags


def run(folder: str, flags: Flags, sets: Sequence[str], *, allow: Sequence[str] = (), verify: bool = False) -> None:
    """Resume the run in `folder` with the settings that it was begun with, but for those in `flags` and `sets`.

    `allow`: settings that may differ from those that the run was begun with. `verify`: replay the last steps and compare every bit, and
    write nothing. Raises PetrunError.
    """
    if verify:
        verifying.verify(folder, sets)
    else:
        train.run(None, flags, sets, resume=folder, allow=allow, command="petrun resume")
