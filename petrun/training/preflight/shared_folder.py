"""Whether all ranks of a job see one and the same run folder: a folder of that name on each host's own disk is not it."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from petrun.cluster.world import World
from petrun.errors import OutputError
from petrun.tensors.atomic import output_error
from petrun.tensors.output import PROBE
from petrun.tensors.sharded.rank_files import PATIENCE_SECONDS
from petrun.training.run_folder import RunFolder

_WORDS = 4


def require_shared(out: RunFolder, world: World) -> None:
    """The first rank writes a file under a name that nobody knows, which the others must find. Every rank must call it, once the folder
    was made. Raises OutputError on all ranks where one of them does not find it.
    """
    if world.size == 1:
        return
    # 16 bits a number, which float32 holds; the sum over the ranks is the first one's.
    drawn = [secrets.randbelow(1 << 16) if world.first else 0 for _ in range(_WORDS)]
    words = world.summed(np.array(drawn, np.float32)).astype(np.int64)
    place = out.path / probe_name("".join(f"{word:04x}" for word in words))
    with world.fail_together():
        if world.first:
            write_probe(place)
    try:
        with world.fail_together():
            if not world.first and not sees(place, PATIENCE_SECONDS):
                raise OutputError(
                    f"--out {out.path}: this rank does not see what rank 0 writes there",
                    hint="All ranks of a job use one folder, for states and slices: --out must lie on a disk that all hosts share.",
                )
    finally:
        if world.first:
            with suppress(OSError):
                place.unlink()


def probe_name(token: str) -> str:
    return f"{PROBE}shared-{token}"


def write_probe(place: Path) -> None:
    """Raises OutputError."""
    try:
        place.write_bytes(b"")
    except OSError as error:
        raise output_error(place, error) from error


def sees(place: Path, seconds: float) -> bool:
    """Whether the file is there, or comes within this time: what another host has written may be seen a little later."""
    deadline = time.monotonic() + seconds
    while True:
        # The folder's list: that a file is not there may be remembered for a while.
        with suppress(OSError):
            if place.name in os.listdir(place.parent):
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
