"""Steps from noise to a latent: DDIM, Euler and DPM-Solver++, as arithmetic on arrays of numpy.

With kept[t] the share of a latent's variance that is left at step t (NoiseSchedule), sigma = sqrt((1 - kept) / kept), z the latent with its
noise, y = z sqrt(1 + sigma^2), e the noise that the U-Net predicts, x = y - sigma e the latent without it; ' marks what comes after a step:

    ddim, euler   y' = x + sigma' e
                  Song et al., arXiv:2010.02502, eq. (13); Karras et al., arXiv:2206.00364, algorithm 1 without churn
    dpm++         y' = q y + (1 - q) (x + (x - x_before) / (2 r)), q = sigma' / sigma, r = log(sigma_before / sigma) / log(sigma / sigma')
                  Lu et al., arXiv:2211.01095, algorithm 2 (multistep of order 2); the first and the last step are of order 1

Which steps are taken, and what is behind the last one, is as in diffusers' DDIMScheduler, EulerDiscreteScheduler and
DPMSolverMultistepScheduler, by the fields of the pipeline's scheduler_config.json. The numbers are held against theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from petrun.errors import ConfigError, ModelError
from petrun.models.fields import Fields
from petrun.models.folder import read_json
from petrun.models.noise_schedule import EPSILON, SCHEDULER_CONFIG, NoiseSchedule
from petrun.tensors import Array
from petrun.typing import JsonObject

Predict = Callable[[Array, float], Array]
"""(latents z (B, Z, h, w) float32, step t) -> what the U-Net predicts, the same shape."""


@dataclass(frozen=True, kw_only=True)
class SamplerFields:
    """Fields of scheduler_config.json that samplers read."""

    spacing: str | None
    """leading, linspace or trailing; None: the sampler's own."""
    offset: int
    ends_clean: bool
    """DDIM: whether behind the last step nothing is left of the noise, or as much as at step 0."""
    clip: float | None
    """DDIM: the largest value of a latent without its noise."""


def parse_sampler_fields(raw: JsonObject) -> SamplerFields:
    """Defaults are those of diffusers' DDIMScheduler. Raises ModelError naming fields that change the steps and are not supported."""
    f = Fields(raw, "sampler")
    for name in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "thresholding"):
        f.only(name, (False,), False)
    f.only("final_sigmas_type", ("zero",), "zero")
    spacing = f.choice("timestep_spacing", ("leading", "linspace", "trailing"), "leading")
    found = SamplerFields(
        spacing=spacing if raw.get("timestep_spacing") is not None else None,
        offset=f.integer("steps_offset", 0, least=0),
        ends_clean=f.flag("set_alpha_to_one", True),
        clip=f.positive("clip_sample_range", 1.0) if f.flag("clip_sample", True) else None,
    )
    f.finish()
    return found


def read_sampler_fields(folder: Path) -> SamplerFields:
    """Read the fields of a pipeline's folder, as diffusers' StableDiffusionPipeline takes them: it sets steps_offset to 1 and clip_sample
    to false. Raises ModelError naming the file.
    """
    path = folder / "scheduler" / SCHEDULER_CONFIG
    try:
        return replace(parse_sampler_fields(read_json(path)), offset=1, clip=None)
    except ModelError as error:
        at = "" if error.message.startswith(str(path)) else f"{path}: "
        raise ModelError(f"{at}{error.message}", hint=error.hint) from error


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of a sampler, the noisiest first."""

    times: Array = field(repr=False)
    """(n,) float64: t of each step."""
    sigmas: Array = field(repr=False)
    """(n + 1,) float64: before each step, and behind the last."""
    start: float
    """What unit noise is multiplied by to give the first y."""
    order: int = 1
    clip: float | None = None


def _spaced(spacing: str, steps: int, count: int, offset: int, extra: int = 0) -> Array:
    """Return `steps` of `count` training steps, the highest first. `extra`: of DPM-Solver, which leaves out the last of one more."""
    if spacing == "linspace":
        return np.linspace(0, count - 1, steps + extra)[::-1][:steps]
    if spacing == "leading":
        return (np.arange(steps + extra) * (count // (steps + extra)))[::-1][:steps] + float(offset)
    return np.round(np.arange(count, 0, -count / steps)) - 1.0


def _ddim(schedule: NoiseSchedule, fields: SamplerFields, steps: int) -> Steps:
    sigmas, count = _sigmas(schedule), schedule.steps
    times = np.round(_spaced(fields.spacing or "leading", steps, count, fields.offset))
    # Each step ends where the next begins only if the steps are spaced evenly: it ends so many training steps below.
    after = times.astype(np.int64) - count // steps
    last = 0.0 if fields.ends_clean else sigmas[0]
    ends = np.where(after >= 0, sigmas[np.maximum(after, 0)], last)
    if not np.allclose(ends[:-1], sigmas[times[1:].astype(np.int64)]):
        raise ConfigError(
            f"--sampler ddim: {steps} steps of the spacing {fields.spacing} do not end where the next begins",
            hint="Choose euler or dpm++, or a number of steps that divides the schedule.",
        )
    found = np.append(sigmas[times.astype(np.int64)], ends[-1])
    return Steps(times=times, sigmas=found, start=_unit(found[0]), clip=fields.clip)


def _euler(schedule: NoiseSchedule, fields: SamplerFields, steps: int) -> Steps:
    spacing = fields.spacing or "linspace"
    times = _spaced(spacing, steps, schedule.steps, fields.offset)
    found = np.append(np.interp(times, np.arange(schedule.steps), _sigmas(schedule)), 0.0)
    return Steps(times=times, sigmas=found, start=_unit(found[0]) if spacing == "leading" else float(found[0]))


def _dpm(schedule: NoiseSchedule, fields: SamplerFields, steps: int) -> Steps:
    times = np.round(_spaced(fields.spacing or "linspace", steps, schedule.steps, fields.offset, extra=1))
    found = np.append(_sigmas(schedule)[times.astype(np.int64)], 0.0)
    return Steps(times=times, sigmas=found, start=_unit(found[0]), order=2)


SAMPLERS: Mapping[str, Callable[[NoiseSchedule, SamplerFields, int], Steps]] = {
    "ddim": _ddim,
    "euler": _euler,
    "dpm++": _dpm,
}


def plan_steps(name: str, schedule: NoiseSchedule, fields: SamplerFields, steps: int) -> Steps:
    """Plan the steps of one of SAMPLERS. Raises ConfigError for more steps than the schedule has, or none."""
    if not 1 <= steps < schedule.steps:
        raise ConfigError(f"--steps {steps}: must be at least 1 and below the {schedule.steps} steps of the schedule")
    return SAMPLERS[name](schedule, fields, steps)


def sample(steps: Steps, schedule: NoiseSchedule, noise: Array, predict: Predict) -> Iterator[Array]:
    """Yield the latents z after each step, float32; the last is the result. `noise`: normal numbers (B, Z, h, w)."""
    y, before = noise.astype(np.float64) * steps.start, None
    for i, time in enumerate(steps.times):
        sigma, after = float(steps.sigmas[i]), float(steps.sigmas[i + 1])
        z = y / _unit(sigma)
        predicted = predict(z.astype(np.float32), float(time)).astype(np.float64)
        e = predicted if schedule.prediction == EPSILON else (predicted + sigma * z) / _unit(sigma)
        x = y - sigma * e
        if steps.clip is not None:
            x = np.clip(x, -steps.clip, steps.clip)
        if steps.order == 2 and before is not None and after > 0.0:
            r = math.log(steps.sigmas[i - 1] / sigma) / math.log(sigma / after)
            y = after / sigma * y + (1.0 - after / sigma) * (x + (x - before) / (2.0 * r))
        else:
            y = x + after * e
        before = x
        yield (y / _unit(after)).astype(np.float32)


def _sigmas(schedule: NoiseSchedule) -> Array:
    found: Array = np.sqrt((1.0 - schedule.kept) / schedule.kept)
    return found


def _unit(sigma: float) -> float:
    return math.sqrt(1.0 + sigma * sigma)
