"""Define the result of a rehearsed rank, as it is written to JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class RankCoordinates(TypedDict):
    """Coordinates of a rank in the layout: the value of `place` in the report."""

    stage: int
    row: int
    column: int


class HeldParameter(TypedDict):
    """A parameter of the net, and the shape of the rank's shard of it, under the report's key `slice`."""

    name: str
    shape: Sequence[int]
    slice: Sequence[int]
    dtype: str
    trains: bool


class CollectiveCount(TypedDict):
    """How often an operator is in the graphs, and the bytes that all of them return."""

    count: int
    bytes: int


class HeldState(TypedDict):
    """The memory that a rank holds."""

    parameters: list[HeldParameter]
    state_bytes: int
    """State of optimizer and step on the card."""
    host_state_bytes: int


class RankResult(HeldState):
    """All that one rank found."""

    rank: int
    place: RankCoordinates
    summed_twice: list[str]
    """Parameters whose gradient is summed over the same ranks more than once."""
    collectives: dict[str, CollectiveCount]
    peak_bytes: int | None
    """MindSpore's own plan; None where only the graph was compiled."""
    build_seconds: float
    compile_seconds: float
    host_bytes: int
    """Memory of the rank's process on this machine."""
    values: int
    trained_values: int
    method: str
    dtype: str
