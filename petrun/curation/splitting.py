"""Divide rows among parts, such as train and eval, so that rows with the same question stay in one part: a question in both would let an
evaluation measure memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from petrun.curation.keys import draw_order
from petrun.data.rows.shares import whole_rows
from petrun.errors import ConfigError, DataError
from petrun.tensors import Array


def parse_parts(text: str) -> dict[str, float]:
    """`train=0.9,eval=500` -> {train: 0.9, eval: 500}: a share below 1, or a number of rows. Raises ConfigError."""
    found: dict[str, float] = {}
    for item in text.split(","):
        name, equals, size = (part.strip() for part in item.partition("="))
        try:
            value = float(size)
        except ValueError:
            value = 0.0
        if (
            not equals
            or not name
            or "/" in name
            or name == "dropped"
            or value <= 0
            or (value > 1 and value != int(value))
        ):
            raise ConfigError(
                f"--parts {text}: '{item}' is not NAME=SHARE or NAME=ROWS", hint="Example: --parts train=0.9,eval=0.1"
            )
        if name in found:
            raise ConfigError(f"--parts {text}: '{name}' stands twice")
        found[name] = value
    if len(found) < 2:
        raise ConfigError(f"--parts {text}: a split has two parts or more", hint="Example: --parts train=0.9,eval=0.1")
    return found


def part_sizes(parts: Mapping[str, float], rows: int) -> dict[str, int]:
    """Return the rows that each part should have. Shares are of the rows that numbers leave. Raises ConfigError."""
    fixed = sum(int(size) for size in parts.values() if size > 1)
    left = rows - fixed
    shares = {name: size for name, size in parts.items() if size <= 1}
    if left < 0 or (left == 0 and shares):
        raise ConfigError(f"--parts asks for {fixed:,} rows and more, and there are {rows:,}")
    total = sum(shares.values())
    if total > 1 + 1e-9:
        raise ConfigError(f"--parts: the shares add up to {total:g}, more than 1")
    # Shares that add up to 1 leave no row out.
    sizes = whole_rows([left * share for share in shares.values()], round(left * total))
    return {name: int(size) for name, size in parts.items()} | dict(zip(shares, sizes, strict=True))


def divide(keys: Iterable[int], parts: Mapping[str, float], seed: int) -> Array:
    """Divide rows among parts, groups of equal keys as one, in an order drawn by the seed.

    Inputs: `keys`, one of 64 bits a row. Returns: (n,) int8, the number of each row's part, -1 for rows that no part takes.
    Raises: DataError where a part stays empty, because a few questions make up most rows; ConfigError.
    """
    _, group, counts = np.unique(np.fromiter(keys, np.uint64), return_inverse=True, return_counts=True)
    sizes = part_sizes(parts, len(group))
    part_of_group = np.full(len(counts), -1, np.int8)
    order = iter(draw_order(len(counts), seed, "split").tolist())
    # The smallest part is filled first, so that a large group cannot leave it empty.
    for number, name in sorted(enumerate(sizes), key=lambda item: sizes[item[1]]):
        filled = 0
        while filled < sizes[name] and (chosen := next(order, None)) is not None:
            part_of_group[chosen] = number
            filled += int(counts[chosen])
        if not filled:
            raise DataError(
                f"part '{name}' would hold no row: {len(counts):,} different questions in {len(group):,} rows",
                hint="Rows with the same question stay together; give the part more rows.",
            )
    return part_of_group[group]
