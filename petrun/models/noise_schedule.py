"""Read scheduler_config.json of a Stable-Diffusion pipeline: how much noise each step has, and what the U-Net predicts.

Source: Ho et al., arXiv:2006.11239, section 2; names and defaults of diffusers' DDPMScheduler, DDIMScheduler and their like.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from petrun.errors import ModelError
from petrun.models.fields import Fields
from petrun.models.folder import read_json
from petrun.tensors import Array
from petrun.typing import JsonObject

SCHEDULER_CONFIG = "scheduler_config.json"
_BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
_MOST_BETA = 0.999
EPSILON, VELOCITY = "epsilon", "v_prediction"


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """Noise by step: a latent z with noise e is sqrt(kept[t]) z + sqrt(1 - kept[t]) e at step t."""

    kept: Array = field(repr=False)
    """(steps,) float64: share of the latent's variance that is left at each step, the product of 1 - beta up to it."""
    prediction: str
    """EPSILON: the net predicts e; VELOCITY: sqrt(kept) e - sqrt(1 - kept) z."""

    @property
    def steps(self) -> int:
        return len(self.kept)


def read_schedule(folder: Path) -> NoiseSchedule:
    """Read the schedule of a pipeline's folder. Raises ModelError naming the file and every field that is not supported."""
    path = folder / "scheduler" / SCHEDULER_CONFIG
    try:
        return parse_schedule(read_json(path))
    except ModelError as error:
        at = "" if error.message.startswith(str(path)) else f"{path}: "
        raise ModelError(f"{at}{error.message}", hint=error.hint) from error


def parse_schedule(raw: JsonObject) -> NoiseSchedule:
    """Raises ModelError. Fields that only a sampler reads are left to it."""
    f = Fields(raw, "scheduler")
    steps = f.integer("num_train_timesteps", 1000)
    kind = f.choice("beta_schedule", _BETAS, "linear")
    first, last = f.number("beta_start", 0.0001, below=1.0), f.number("beta_end", 0.02, below=1.0)
    f.only("trained_betas", (None,), None)
    f.only("rescale_betas_zero_snr", (False,), False)
    prediction = f.choice("prediction_type", (EPSILON, VELOCITY), EPSILON)
    f.finish()
    return NoiseSchedule(kept=np.cumprod(1.0 - _betas(kind, first, last, steps)), prediction=prediction)


def _betas(kind: str, first: float, last: float, steps: int) -> Array:
    """Return beta of each step, (steps,) float64. The third kind: Nichol and Dhariwal, arXiv:2102.09672, eq. (17)."""
    if kind == "linear":
        return np.linspace(first, last, steps)
    if kind == "scaled_linear":
        return np.linspace(math.sqrt(first), math.sqrt(last), steps) ** 2
    wave = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1.0 - wave[1:] / wave[:-1], _MOST_BETA)
