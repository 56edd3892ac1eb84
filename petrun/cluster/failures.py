"""Exchange which ranks failed and why, as numbers: ranks can only exchange sums, on the CPU and on Ascend alike.

A table (ranks, LETTERS) float32: each rank that failed writes the bytes of its text into its own row, and the sum holds them all.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from petrun.errors import PetrunError, SetupError

LETTERS = 512
"""Bytes of a row: exit code, host and the first line of the message, each but the last ended by a line feed."""
_HOST = 64


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The failure of a rank, as the rank reported it."""

    rank: int
    exit_code: int
    host: str
    reason: str


def failure_table(own: Exception | None, rank: int, size: int) -> NDArray[np.float32]:
    """Return the table with this rank's row, which is empty where it did not fail."""
    table = np.zeros((size, LETTERS), np.float32)
    if own is not None:
        code, said = (own.exit_code, own.message) if isinstance(own, PetrunError) else (1, _unforeseen(own))
        first = next(iter(said.splitlines()), "")
        text = f"{code}\n{socket.gethostname()[:_HOST]}\n{first}".encode("utf-8", "backslashreplace")
        text = text if len(text) <= LETTERS else text[: LETTERS - 3] + b"..."
        table[rank, : len(text)] = np.frombuffer(text, np.uint8)
    return table


def _unforeseen(error: Exception) -> str:
    """Return the type and the text of an error that petrun did not foresee."""
    return f"{type(error).__name__}: {str(error).strip()}"


def failures_in(table: NDArray[np.float32]) -> list[Failure]:
    """Return the failures in the order of ranks. A row that no rank can have written is left out."""
    found = []
    for rank, row in enumerate(table):
        letters = np.nan_to_num(row).clip(0, 255).astype(np.uint8).tobytes().rstrip(b"\0")
        code, *rest = letters.decode("utf-8", "ignore").split("\n", 2)
        if len(rest) == 2 and code.isdecimal():
            found.append(Failure(rank=rank, exit_code=int(code), host=rest[0], reason=rest[1]))
    return found


def error_of_others(failures: Sequence[Failure]) -> SetupError:
    """Return the error of a rank that ends because others failed, with the exit code of the first of them: a wrong setting is not
    retried.
    """
    if not failures:
        return SetupError("another rank failed", hint="Its own message says why.")
    first, *others = failures
    host = "" if first.host == socket.gethostname()[:_HOST] else f" on {first.host}"
    hint = f"The log of rank {first.rank} says the rest."
    if others:
        named = ", ".join(str(failure.rank) for failure in others[:8])
        more = f" and {len(others) - 8} more" if len(others) > 8 else ""
        hint += f" Failed as well: rank{'s' if len(others) > 1 else ''} {named}{more}."
    error = SetupError(f"rank {first.rank}{host} failed: {first.reason}", hint=hint)
    error.exit_code = first.exit_code
    return error
