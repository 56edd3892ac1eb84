"""The loss of a net that predicts the noise of latents.

B rows, Z channels, h and w height and width of the latents, T tokens of the text, S width of its states.
"""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from petrun.kernels import CounterNormal, CounterUniform
from petrun.models.noise_schedule import EPSILON, NoiseSchedule
from petrun.tensors import Array
from petrun.typing import Cell


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings:
    """Numbers of the loss."""

    scaling: float
    """What latents are multiplied by before the net reads them."""
    min_snr: float | None = None
    """Highest signal-to-noise ratio that a step is weighed by; None: all steps weigh the same."""
    offset_noise: float = 0.0
    """Share of a noise that is the same in all pixels of a channel."""
    flip: bool = False
    """Whether half of the pictures, by chance, are mirrored."""


class DiffusionLoss(nn.Cell):
    """Mean over Z, h and w of (net(a z + s e, t, states) - e)^2, e normal, t uniform, a^2 = kept[t], s^2 = 1 - a^2; or of
    (net(...) - (a e - s z))^2 for a net that predicts velocity.

    With `min_snr` g, a step of ratio r = a^2 / s^2 weighs min(r, g) / r, for velocity min(r, g) / (r + 1).
    Source: Ho et al., arXiv:2006.11239, eq. (14); Salimans and Ho, arXiv:2202.00512, appendix D; Hang et al., arXiv:2303.09556, section
    3.4; the loss and the sampling of latents are those of diffusers' train_text_to_image_lora.py.
    Inputs: denominator () float32; targets (B,) int32, -100 = ignored; latents (B, 2 or 4, Z, h, w) float32, mean and deviation of the
    picture, then of its mirror image; states (B, T, S) float32. Noise, steps and flips are drawn by the counters of dropout.
    Returns (sum of losses / denominator () float32, what the net predicted). Reduction: a sum over rows, divided as told.
    """

    def __init__(self, net: Cell, schedule: NoiseSchedule, settings: DiffusionSettings, seed: int) -> None:
        super().__init__(auto_prefix=False)
        self.net, self.steps = net, schedule.steps
        self.predicts_noise = schedule.prediction == EPSILON
        self.signal = Tensor(np.sqrt(schedule.kept), ms.float32)
        self.noise = Tensor(np.sqrt(1.0 - schedule.kept), ms.float32)
        self.weight = Tensor(step_weights(schedule, settings.min_snr), ms.float32)
        self.scaling, self.offset_noise, self.flip = settings.scaling, settings.offset_noise, settings.flip
        self.draw_flip, self.draw_step = CounterUniform(seed, "diffusion.flip"), CounterUniform(seed, "diffusion.step")
        self.draw_latent, self.draw_noise = (
            CounterNormal(seed, "diffusion.latent"),
            CounterNormal(seed, "diffusion.noise"),
        )
        self.draw_offset = CounterNormal(seed, "diffusion.offset")
        self.gather = ops.Gather()

    def of_row(self, table: Tensor, steps: Tensor) -> Tensor:
        """table[steps] as (B, 1, 1, 1)."""
        return ops.reshape(self.gather(table, steps, 0), (-1, 1, 1, 1))

    def construct(self, denominator: Tensor, targets: Tensor, latents: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        rows = latents.shape[0]
        drawn = latents[:, :2]
        if self.flip:
            mirrored = ops.reshape(self.draw_flip((rows, 1)) < 0.5, (rows, 1, 1, 1, 1))
            drawn = ops.select(ops.broadcast_to(mirrored, drawn.shape), latents[:, 2:], drawn)
        shape = drawn[:, 0].shape
        z = (drawn[:, 0] + drawn[:, 1] * self.draw_latent(shape)) * self.scaling
        e = self.draw_noise(shape)
        if self.offset_noise > 0.0:
            e = e + self.offset_noise * ops.reshape(self.draw_offset(shape[:2]), (*shape[:2], 1, 1))
        steps = ops.cast(self.draw_step((rows,)) * self.steps, ms.int32)
        steps = ops.minimum(steps, ops.full_like(steps, self.steps - 1))
        signal, noise = self.of_row(self.signal, steps), self.of_row(self.noise, steps)
        predicted = self.net(signal * z + noise * e, steps, states)
        wanted = e if self.predicts_noise else signal * e - noise * z
        errors = ops.mean(ops.square(predicted - wanted), (1, 2, 3)) * self.gather(self.weight, steps, 0)
        kept = ops.select(targets != -100, errors, ops.zeros_like(errors))
        return ops.sum(kept) / denominator, predicted


def step_weights(schedule: NoiseSchedule, min_snr: float | None) -> Array:
    """Return the weight of each step's loss, (steps,) float64: see DiffusionLoss."""
    if min_snr is None:
        return np.ones(schedule.steps)
    ratio = schedule.kept / (1.0 - schedule.kept)
    found: Array = np.minimum(ratio, min_snr) / (ratio if schedule.prediction == EPSILON else ratio + 1.0)
    return found
