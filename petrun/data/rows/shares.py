"""Files by shares: `a.jsonl:0.7`, and how many rows of each file make them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from petrun.data.formats.slices import split_slice
from petrun.errors import ConfigError


def split_share(name: str) -> tuple[str, float | None]:
    """`a.jsonl:0.7` -> (file, its share); the share is None where none is given. Raises ConfigError for a share that is not above 0.

    A file whose own name ends so is that file, and `rows.jsonl#100:200` is some rows of a file.
    """
    path, colon, number = name.rpartition(":")
    if not colon or not path or Path(name).expanduser().exists() or split_slice(name)[1] is not None:
        return name, None
    try:
        share = float(number)
    except ValueError:
        return name, None
    if share <= 0 or not math.isfinite(share):
        raise ConfigError(f"{name}: the share must be a number above 0", hint="To leave a file out, do not name it.")
    return path, share


def share_out(shares: Sequence[float], available: Sequence[int], rows: int | None) -> list[int]:
    """Return how many rows each file gives; shares are over their sum. Without `rows`: as many as leave every row used at most once.

    Raises: ConfigError where a file would give none.
    """
    parts = [share / sum(shares) for share in shares]
    if rows is None:
        rows = min(int(count / part + 1e-9) for count, part in zip(available, parts, strict=True))
    found = whole_rows([rows * part for part in parts], rows)
    if 0 in found:
        raise ConfigError(
            f"a file would give no row to a mix of {rows:,} rows", hint="Give more rows, or leave the file out."
        )
    return found


def whole_rows(exact: Sequence[float], total: int) -> list[int]:
    """Round numbers of rows, which add up to `total` or a little more or less, so that they do: the largest remainders first, of equal ones
    the smaller number, which a row matters more to."""
    found = [int(size + 1e-9) for size in exact]
    order = sorted(range(len(exact)), key=lambda i: (round(found[i] - exact[i], 9), exact[i]))
    for i in order[: total - sum(found)]:
        found[i] += 1
    return found
