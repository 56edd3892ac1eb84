"""The settings of examples come from the data settings and the base; lengths are limited."""

from dataclasses import fields

import pytest

from petrun.config.schema import DataConfig
from petrun.data.settings import ExampleSettings
from petrun.errors import ConfigError
from petrun.inference.base_info import BaseInfo
from petrun.inference.rows import check_length, example_settings

BASE = BaseInfo(
    hf_config={"padded_vocab_size": 99},
    tasks=("lm", "instruct"),
    vocabulary=99,
    longest=64,
    virtual_tokens=0,
    labels=(),
    num_labels=None,
    folder=None,
)
GIVEN = {
    "seq_len": 17, "template": "alpaca", "columns": {"text": "sentence"}, "format": "csv", "separator": "||", "encoding": "gb18030",
    "labels": ("b", "a"), "regression": False, "loss_on": "all", "max_rows": 5, "chat_template_kwargs": {"enable_thinking": False},
    "ignore": ("id",), "on_bad_row": "skip",
}  # fmt: skip


def test_every_data_setting_reaches_the_examples():
    shared = {field.name for field in fields(ExampleSettings)} & set(DataConfig.model_fields)
    assert shared == {*GIVEN, "task"}
    settings = example_settings(DataConfig(**GIVEN), BASE, task="lm", num_labels=3)
    assert {name: getattr(settings, name) for name in GIVEN} == GIVEN
    assert (settings.task, settings.num_labels, settings.vocab_size) == ("lm", 3, 99)
    assert settings.family_tasks == ("lm", "instruct")


def test_labels_and_template_of_the_delta_come_first():
    own = {name: value for name, value in GIVEN.items() if name != "labels"}
    settings = example_settings(DataConfig(**own), BASE, task=None, labels=("x", "y"), template="plain")
    assert settings.labels == ("x", "y") and settings.template == "plain"


def test_labels_in_another_order_than_the_models_are_refused():
    assert example_settings(DataConfig(**GIVEN), BASE, task=None, labels=("b", "a")).labels == ("b", "a")
    with pytest.raises(ConfigError, match=r"data.labels: b, a, but the model's classes are a, b, in this order"):
        example_settings(DataConfig(**GIVEN), BASE, task=None, labels=("a", "b"))


def test_a_length_is_limited_unless_the_user_gave_it():
    assert check_length(512, None, True, 0) == 512
    assert check_length(64, 64, True, 0) == 64
    assert check_length(512, 64, False, 0) == 64
    with pytest.raises(
        ConfigError, match=r"--seq-len 512 is more than the 64 positions of the model that 8 virtual tokens leave"
    ):
        check_length(512, 64, True, 8)
