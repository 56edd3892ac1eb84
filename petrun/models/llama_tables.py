"""Make rotary angles and masks, which every layer of a llama reads beside its input."""

from __future__ import annotations

from mindspore import nn

from petrun.models.decoding import CausalMask, virtual_positions
from petrun.models.llama_config import LlamaConfig
from petrun.models.rope import Rope, Rotary
from petrun.typing import DType, Tensor


class TwoRotaries(nn.Cell):
    """Angles of two kinds of layers.

    Inputs: position_ids (B, T) int32. Returns: cos and sin of the first kind, then of the second, as Rotary makes them.
    """

    def __init__(self, near: Rope, full: Rope, dtype: DType) -> None:
        super().__init__()
        self.near, self.full = Rotary(near, dtype), Rotary(full, dtype)

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard the tables by rows of the batch."""
        self.near.set_layout(how, dp, tp)
        self.full.set_layout(how, dp, tp)

    def construct(self, position_ids: Tensor) -> tuple[Tensor, ...]:
        return (*self.near(position_ids), *self.full(position_ids))


class LlamaTables(nn.Cell):
    """Angles of the positions, and masks. A pipeline makes them once on each stage, as a mask cannot be sent between stages and angles
    need not be.

    Inputs: segment_ids, position_ids (B, T) int32; prefix, prompt: ints. Returns: what windowed layers read, and what the others read, each
    cos, sin (B, 1, P_prompt + T, D) and mask, see CausalMask.
    """

    def __init__(self, c: LlamaConfig, dtype: DType) -> None:
        super().__init__()
        rope, near_rope, windows = c.rope, c.near_rope, c.windows
        self.prefix_positions = c.prefix_positions
        # One mask for each kind of layer in the model.
        self.window = max(windows)
        self.all_windowed = min(windows) > 0
        self.rotary = Rotary(rope, dtype) if near_rope is None else TwoRotaries(near_rope, rope, dtype)
        self.causal_mask = CausalMask()

    def construct(
        self, segment_ids: Tensor, position_ids: Tensor, prefix: int, prompt: int, part: int = 0
    ) -> tuple[tuple[Tensor, ...], ...]:
        before = prefix if self.prefix_positions else 0
        angles = self.rotary(virtual_positions(position_ids, before, prompt))
        near = self.causal_mask(segment_ids, position_ids, self.window, prefix, prompt)
        if self.all_windowed or self.window == 0:
            return self.both(angles, near, near)
        return self.both(angles, near, self.causal_mask(segment_ids, position_ids, 0, prefix, prompt))

    def both(self, angles: tuple[Tensor, ...], near: Tensor, full: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """Put what windowed layers read before what the others read; `angles`: what `rotary` makes, of which both take the same if
        it makes one pair."""
        return (angles[0], angles[1], near), (angles[-2], angles[-1], full)
