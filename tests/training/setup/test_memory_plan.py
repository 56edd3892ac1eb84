"""Every method on every family has a memory plan, or the reason why there is none."""

import json

import pytest

from petrun.config.load import load_run_config
from petrun.delta import METHODS
from petrun.errors import TargetError
from petrun.parallel.context import Device
from petrun.parallel.layout import Layout
from petrun.training.setup.memory_plan import UnknownMemoryError, memory_of
from tests.tiny import CONFIGS

KNOWN = ("full", "lora", "ia3", "adapter", "prefix", "ptuning2", "prompt")
DEVICES = (Device("cpu", "float32", None), Device("ascend", "bfloat16", None))


@pytest.mark.parametrize("family", CONFIGS)
def test_every_method_is_planned_or_said_to_be_unknown(tmp_path, family):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[family]))
    planned = set()
    for algo in METHODS:
        flags = {"algo": ("--algo", algo), "model.base": ("--base", str(tmp_path))}
        config = load_run_config(None, flags, [], embedded=None).config
        for device in DEVICES:
            try:
                plan = memory_of(config, device, Layout(), 8, None).plan()
            except (UnknownMemoryError, TargetError):
                # A llama has no biases to train.
                continue
            assert plan.total > plan.weights > 0
            planned.add(algo)
    assert planned >= set(KNOWN)
