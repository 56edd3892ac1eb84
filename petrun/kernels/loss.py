"""Cross entropy per token."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import nn, ops

from petrun.kernels import fused, native

IGNORED = -100
"""Target of a token that is not supervised (Hugging Face's convention)."""


class TokenCrossEntropy(nn.Cell):
    """-log softmax(logits)[target] per row, 0 where the target is -100. No reduction: that is the caller's.

    Inputs: logits (M, V) float16, bfloat16 or float32; targets (M,) int32, in 0..V-1 or -100.
    Returns: (M,) float32.
    """

    def __init__(self) -> None:
        super().__init__()
        library = native.library()
        self.is_fused = library is not None
        self.fused: Any = fused.cross_entropy(library) if library else None

    def construct(self, logits: Any, targets: Any) -> Any:
        if self.is_fused and logits.dtype == ms.float32 and targets.dtype == ms.int32:
            return self.fused(logits, targets)[0]
        logits = ops.cast(logits, ms.float32)
        known = targets != IGNORED
        safe = ops.select(known, targets, ops.zeros_like(targets))
        # From exp and log, because log_softmax on the CPU turns a NaN among the logits into -inf elsewhere.
        shifted = logits - ops.stop_gradient(ops.amax(logits, -1, True))
        picked = ops.squeeze(ops.gather_elements(shifted, 1, ops.expand_dims(safe, 1)), 1)
        loss = ops.log(ops.sum(ops.exp(shifted), -1)) - picked
        return ops.select(known, loss, ops.zeros_like(loss))
