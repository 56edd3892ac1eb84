"""Require that all ranks of a job see the same run folder, not a folder of that name on each host's own disk."""

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
    """Raise OutputError on all ranks where one of them does not see the run folder of the first.

    The first rank writes a file under a random name, which the others must find. Every rank must call it, once the folder exists.
    """
    if world.size == 1:
        return
    # Each number has 16 bits, which float32 holds; the sum over the ranks is the first rank's.
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
                    hint="All ranks of a job use one folder, for states and shards: --out must lie on a disk that all hosts share.",
                )
    finally:
        if world.first:
            with suppress(OSError):
                place.unlink()


def probe_name(token: str) -> str:
    return f"{PROBE}shared-{token}"


def write_probe(place: Path) -> None:
    """Write the empty file. Raises OutputError."""
    try:
        place.write_bytes(b"")
    except OSError as error:
        raise output_error(place, error) from error


def sees(place: Path, seconds: float) -> bool:
    """Whether the file exists or appears within this time: a file that another host has written may appear a little later."""
    deadline = time.monotonic() + seconds
    while True:
        # The folder is listed: the system may cache for a while that a file does not exist.
        with suppress(OSError):
            if place.name in os.listdir(place.parent):
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
