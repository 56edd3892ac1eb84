"""Read numbers of optimizer steps, which a user gives as a count or as a share of the run."""

from __future__ import annotations


def step_count(count_or_share: float, total_steps: int) -> int:
    """Return a number of steps: a value below 1 is a share of all steps, rounded."""
    return round(count_or_share * total_steps) if count_or_share < 1 else int(count_or_share)
