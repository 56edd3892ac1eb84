"""A user's own net is run once before anything else: what is wrong with it is said in its own lines."""

import re

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from petrun.errors import ModelError
from petrun.graph.sites import Sites
from petrun.models.base import LoadedModel
from petrun.models.trial import try_net
from petrun.parallel.context import eager

X = np.ones((2, 3), np.float32)


class Net(nn.Cell):
    inputs = ("x",)

    def __init__(self, inside=3, outside=2):
        super().__init__()
        self.dense = nn.Dense(inside, outside)

    def construct(self, x):
        return self.dense(x)


class Two(Net):
    def construct(self, x, y):
        return self.dense(x + y)


class Flat(Net):
    def construct(self, x):
        return self.dense(x).sum(-1)


class Pair(Net):
    def construct(self, x):
        return self.dense(x), x


class Fails(Net):
    def construct(self, x):
        raise ValueError("not today")


class OnlyEager(Net):
    def construct(self, x):
        import mindspore.ops

        return self.dense(mindspore.ops.relu(x))


def attempt(net, classes=2):
    net.set_train(False)
    loaded = LoadedModel(
        net=net, sites=Sites(), family="net.py:build", model_type="net.py:build", inputs=net.inputs, tasks=("classify",)
    )
    try_net(loaded, {"x": X}, classes, eager)


def line_of(text):
    with open(__file__, encoding="utf-8") as file:
        return next(number for number, line in enumerate(file, 1) if text in line)


def test_a_good_net_passes_and_the_mode_is_restored():
    ms.set_context(mode=ms.GRAPH_MODE)
    attempt(Net())
    assert ms.get_context("mode") == ms.GRAPH_MODE


@pytest.mark.parametrize(
    ("net", "classes", "message"),
    [
        (Two, 2, "its net's construct(x, y) is given x: missing a required argument: 'y'"),
        (Flat, 2, "its net returns (2,) for 2 rows"),
        (Pair, 2, "its net returns tuple"),
        (Net, 3, "its net has 2 outputs, the data 3 classes"),
        (lambda: Net(3, 1), 2, "its net has 1 outputs"),
        (Fails, 2, f"test_trial.py:{line_of('not today')}: ValueError: not today"),
        (lambda: Net(5), 2, f"test_trial.py:{line_of('return self.dense(x)')}: ValueError: For 'MatMul'"),
        (OnlyEager, 2, f"test_trial.py:{line_of('import mindspore.ops')}: does not compile: "),
    ],
)
def test_what_can_be_wrong(net, classes, message, tmp_path, monkeypatch):
    monkeypatch.setenv("MS_OM_PATH", str(tmp_path))
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        attempt(net(), classes)
    assert caught.value.message.startswith("--model net.py:build: ") and caught.value.hint
    assert ms.get_context("mode") == ms.GRAPH_MODE
