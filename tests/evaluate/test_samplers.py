"""DDIM, Euler and DPM-Solver++ against diffusers' schedulers (diffusers_cases.py): steps, and latents after each of them."""

import json

import numpy as np
import pytest

from petrun.errors import ConfigError, ModelError
from petrun.evaluate.samplers import SAMPLERS, parse_sampler_fields, plan_steps, sample
from petrun.models.noise_schedule import parse_schedule
from tests.models.diffusers_cases import SAMPLED, SCHEDULER, STORED, first_noise, stand_in

FOUND = json.loads(STORED.read_text())["cases"]


def planned(sampler, config, steps):
    schedule = parse_schedule(config)
    return schedule, plan_steps(sampler, schedule, parse_sampler_fields(config), steps)


@pytest.mark.parametrize("name", SAMPLED)
def test_trajectories_are_those_of_diffusers(name):
    schedule, steps = planned(*SAMPLED[name])
    wanted = FOUND[f"sampled {name}"]
    np.testing.assert_allclose(steps.times, wanted["times"], atol=1e-4)
    found = list(sample(steps, schedule, first_noise(), stand_in))
    assert len(found) == SAMPLED[name][2] and found[0].dtype == np.float32
    for each, theirs in zip(found, wanted["latents"], strict=True):
        np.testing.assert_allclose(each.ravel(), theirs, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_that_is_known_is_taken_away(sampler):
    """Given a net that knows the latent, every sampler ends at it: in one step and in ten."""
    config = {**SCHEDULER, "clip_sample": False, "set_alpha_to_one": True}
    latent = np.linspace(-2, 2, 36, dtype=np.float32).reshape(1, 4, 3, 3)
    for count in (1, 10):
        schedule, steps = planned(sampler, config, count)

        def predict(z, time, kept=schedule.kept):
            at = np.interp(time, np.arange(len(kept)), np.sqrt((1 - kept) / kept))
            return ((z * np.sqrt(1 + at**2) - latent) / at).astype(np.float32)

        *_, last = sample(steps, schedule, first_noise()[:1], predict)
        np.testing.assert_allclose(last, latent, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_karras_sigmas": True}, "use_karras_sigmas = true is not supported for sampler"),
        ({"timestep_spacing": "middle"}, 'timestep_spacing = "middle" is not supported'),
        ({"thresholding": True}, "thresholding = true is not supported"),
        ({"final_sigmas_type": "sigma_min"}, 'final_sigmas_type = "sigma_min" is not supported'),
    ],
)
def test_refused_fields(change, message):
    with pytest.raises(ModelError, match=message):
        parse_sampler_fields({**SCHEDULER, **change})


@pytest.mark.parametrize("steps", [0, 1000])
def test_refused_numbers_of_steps(steps):
    with pytest.raises(ConfigError, match=f"--steps {steps}: must be at least 1 and below the 1000 steps"):
        planned("euler", SCHEDULER, steps)


def test_steps_of_ddim_that_do_not_meet_are_refused():
    with pytest.raises(ConfigError, match="--sampler ddim: 7 steps of the spacing linspace"):
        planned("ddim", {**SCHEDULER, "timestep_spacing": "linspace"}, 7)
