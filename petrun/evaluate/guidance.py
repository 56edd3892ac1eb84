"""The noise of a latent under a text, away from what it is without it.

B rows, Z channels, h and w height and width of the latents, T tokens of the text, S width of its states.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from petrun.typing import Cell


class GuidedNoise(nn.Cell):
    """e(z, nothing) + g (e(z, text) - e(z, nothing)), with both in one batch of the net: classifier-free guidance.

    Source: Ho and Salimans, arXiv:2207.12598, eq. (6), with g = 1 + w.
    Inputs: latents z (B, Z, h, w) float32; times (2B,) float32; states (2B, T, S), those without the text first; guidance g () float32.
    Where times are (B,) and states (B, T, S), those of the text, it is e(z, text), without a second half. Returns: (B, Z, h, w) float32.
    """

    def __init__(self, net: Cell) -> None:
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, latents: Tensor, times: Tensor, states: Tensor, guidance: Tensor) -> Tensor:
        rows = latents.shape[0]
        if states.shape[0] == rows:
            return self.net(latents, times, states)
        both = self.net(ops.concat((latents, latents)), times, states)
        without = both[:rows]
        return without + guidance * (both[rows:] - without)
