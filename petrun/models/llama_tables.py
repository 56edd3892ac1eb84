"""Make rotary angles and masks, which every layer of a llama reads beside its input."""

from __future__ import annotations

from mindspore import nn

from petrun.models.decoding import CausalMask, virtual_positions
from petrun.models.rope import Rope, Rotary
from petrun.typing import DType, Tensor


class LlamaTables(nn.Cell):
    """Angles of the positions, and masks. A pipeline makes them once on each stage, as a mask cannot be sent between stages and angles
    need not be.

    Inputs: segment_ids, position_ids (B, T) int32; prefix, prompt: ints. Returns: cos, sin (B, 1, P_prompt + T, D); the mask of windowed
    layers and that of the others, see CausalMask.
    """

    def __init__(self, rope: Rope, windows: tuple[int, ...], dtype: DType) -> None:
        super().__init__()
        # One mask for each kind of layer in the model.
        self.window = max(windows)
        self.all_windowed = min(windows) > 0
        self.rotary = Rotary(rope, dtype)
        self.causal_mask = CausalMask()

    def construct(
        self, segment_ids: Tensor, position_ids: Tensor, prefix: int, prompt: int, part: int = 0
    ) -> tuple[Tensor, ...]:
        cos, sin = self.rotary(virtual_positions(position_ids, prefix, prompt))
        near = self.causal_mask(segment_ids, position_ids, self.window, prefix, prompt)
        if self.all_windowed or self.window == 0:
            return cos, sin, near, near
        return cos, sin, near, self.causal_mask(segment_ids, position_ids, 0, prefix, prompt)
