"""The noise of each step against diffusers' DDPMScheduler (diffusers_cases.py), and schedules that are refused."""

import json

import numpy as np
import pytest

from petrun.errors import ModelError
from petrun.models.noise_schedule import parse_schedule, read_schedule
from tests.models.diffusers_cases import SCHEDULER, SCHEDULERS, STORED

FOUND = json.loads(STORED.read_text())["cases"]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_equals_diffusers(name):
    schedule = parse_schedule(SCHEDULERS[name])
    np.testing.assert_allclose(
        schedule.kept[:: schedule.steps // 10], FOUND[f"schedule {name}"]["kept"], rtol=1e-4, atol=1e-7
    )
    assert schedule.prediction == SCHEDULERS[name].get("prediction_type", "epsilon")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta_schedule": "sigmoid"}, 'beta_schedule = "sigmoid" is not supported for scheduler'),
        ({"prediction_type": "sample"}, 'prediction_type = "sample" is not supported'),
        ({"trained_betas": [0.1]}, r"trained_betas = \[0.1\] is not supported"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr = true is not supported"),
        ({"num_train_timesteps": 0}, "num_train_timesteps = 0: must be an integer of at least 1"),
    ],
)
def test_refused_schedules_name_the_file_and_the_field(tmp_path, change, message):
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**SCHEDULER, **change}))
    with pytest.raises(ModelError, match=f"{path}: {message}"):
        read_schedule(tmp_path)


def test_a_pipeline_without_a_schedule_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"scheduler_config.json: no such file"):
        read_schedule(tmp_path)
