"""Round shares of rows to numbers of rows that add up."""

from __future__ import annotations

from collections.abc import Sequence


def whole_rows(exact: Sequence[float], total: int) -> list[int]:
    """Round numbers of rows, which add up to `total` or a little more or less, so that they do: the largest remainders first, of equal ones
    the smaller number, which a row matters more to."""
    found = [int(size + 1e-9) for size in exact]
    order = sorted(range(len(exact)), key=lambda i: (round(found[i] - exact[i], 9), exact[i]))
    for i in order[: total - sum(found)]:
        found[i] += 1
    return found
