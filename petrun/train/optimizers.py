"""The optimizers that a run may use: one record each in OPTIMIZERS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from petrun.tensors.known_names import ADAMW_STATE
from petrun.train.adamw import AdamW, HostAdamW


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Facts about an optimizer that a run, a plan of its memory and a reader of its files need."""

    cell: type[AdamW]
    """Updates parameters whose state lies beside them."""
    host_cell: type[AdamW]
    """As `cell`, with its state in the host's memory (--offload optimizer)."""
    state: tuple[str, ...]
    """Patterns of the names of its state's tensors, which stand beside the weights in a MindSpore checkpoint."""
    state_bytes: int
    """Bytes of its state for one trained value."""


OPTIMIZERS: Mapping[str, Optimizer] = {
    "adamw": Optimizer(cell=AdamW, host_cell=HostAdamW, state=ADAMW_STATE, state_bytes=8),
}
DEFAULT_OPTIMIZER = "adamw"
"""The one that `petrun train` uses."""
