"""Choose the likeliest token."""

from __future__ import annotations

import mindspore as ms
from mindspore import ops

from petrun.kernels import fused, native
from petrun.typing import Tensor


class Likeliest(fused.FusedCell):
    """argmax over the vocabulary, the first of equal ones, and whether all logits are finite.

    Inputs: logits (B, V) float32. Returns: (B,) int32, (B,) bool.
    """

    def __init__(self) -> None:
        super().__init__()
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.likeliest, library)

    def construct(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        if self.is_fused and logits.dtype == ms.float32:
            return self.fused(logits)
        return ops.cast(ops.argmax(logits, -1), ms.int32), ops.isfinite(logits).all(-1)
