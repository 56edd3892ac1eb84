"""The schedules: the graph against the host, and values by hand."""

import math
from typing import get_args

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from petrun.config.schema import OptimConfig
from petrun.errors import ConfigError
from petrun.graph.step_counts import step_count
from petrun.train import schedules
from petrun.train.schedules import SCHEDULES, LearningRate, Schedule, ScheduleKind


def test_the_setting_offers_every_schedule():
    assert set(get_args(OptimConfig.model_fields["schedule"].annotation)) == set(SCHEDULES)


def square(done, cos):
    return (1.0 - done) * (1.0 - done)


def test_a_new_schedule_is_one_line_in_the_table(monkeypatch, mode):
    """Nothing but its record is needed: the host's rate, the graph's and the last one follow from it."""
    monkeypatch.setattr(schedules, "SCHEDULES", {**SCHEDULES, "square": ScheduleKind(falling=square)})
    schedule = Schedule(kind="square", peak=2.0, warmup_steps=1, total_steps=5, min_ratio=0.5)
    assert [schedule.at(s) for s in (0, 1, 3, 5)] == [2.0, 2.0, 1.25, 1.0]
    cell = LearningRate(schedule)
    assert [float(cell(Tensor(s, ms.int32)).asnumpy()) for s in (0, 1, 3, 5)] == [2.0, 2.0, 1.25, 1.0]


@pytest.mark.parametrize("kind", list(SCHEDULES))
@pytest.mark.parametrize("warmup", [0, 3])
def test_schedule_in_the_graph_equals_the_host(kind, warmup):
    schedule = Schedule(kind=kind, peak=2e-3, warmup_steps=warmup, total_steps=10, min_ratio=0.1)
    cell = LearningRate(schedule)
    found = [float(cell(Tensor(s, ms.int32)).asnumpy()) for s in range(11)]
    np.testing.assert_allclose(found, [schedule.at(s) for s in range(11)], rtol=1e-5)


def test_schedule_values():
    cosine = Schedule(kind="cosine", peak=1.0, warmup_steps=2, total_steps=10)
    assert cosine.at(0) == 0.5 and cosine.at(1) == 1.0 and cosine.at(2) == 1.0
    assert cosine.at(6) == pytest.approx(0.5)
    assert cosine.at(9) == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))
    assert Schedule(kind="linear", peak=1.0, warmup_steps=0, total_steps=4).at(1) == pytest.approx(0.75)
    assert Schedule(kind="constant", peak=1.0, warmup_steps=0, total_steps=4).at(3) == 1.0
    assert Schedule(kind="linear", peak=1.0, warmup_steps=0, total_steps=4, min_ratio=0.5).at(4) == pytest.approx(0.5)


def test_warmup_counts():
    assert step_count(0.06, 100) == 6
    assert step_count(0.06, 5) == 0
    assert step_count(20, 100) == 20
    with pytest.raises(ConfigError, match="--warmup 20"):
        Schedule(kind="cosine", peak=1.0, warmup_steps=20, total_steps=10)
