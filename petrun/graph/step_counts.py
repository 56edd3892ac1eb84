"""Numbers of optimizer steps that a user gives as a count or as a share of the run."""

from __future__ import annotations


def step_count(count_or_share: float, total_steps: int) -> int:
    """Below 1 a share of all steps, rounded; else a number of steps."""
    return round(count_or_share * total_steps) if count_or_share < 1 else int(count_or_share)
