"""Algorithms that peft has too, held against its layers: output, gradients, five steps of AdamW, and the merged weight."""

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from petrun.delta import METHODS
from petrun.graph.freeze import freeze_all_but
from petrun.graph.sites import Sites
from petrun.train.adamw import AdamW
from petrun.train.schedules import Schedule
from tests.delta.peft_layers import CASES, DECAY, IN, LR, OUT, STEPS, STORED, batch, numbers

pytestmark = pytest.mark.usefixtures("pynative")
PEFT = json.loads(STORED.read_text())


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.first = nn.Dense(IN, OUT)

    def construct(self, x):
        return self.first(x)


@pytest.mark.parametrize("label", CASES)
def test_a_layer_is_that_of_peft(label):
    algo, settings, _, _, parts = CASES[label]
    method, net = METHODS[algo], Net()
    config = method.config(target=("all-linear",), **settings)
    owned = method.attach(net, config, Sites(), 0)
    parameters = {p.name: p for p in net.get_parameters()}
    parameters["first.weight"].set_data(Tensor(numbers("weight", (OUT, IN))))
    parameters["first.bias"].set_data(Tensor(numbers("bias", (OUT,))))
    of_part = {part: parameters[f"first.{leaf}"] for part, leaf in parts.items()}
    assert set(owned) == {p.name for p in of_part.values()}
    for part, parameter in of_part.items():
        parameter.set_data(Tensor(numbers(part, parameter.shape)))
    trained = {part: p for part, p in of_part.items() if p.name.rpartition(".")[2] not in method.fixed}
    freeze_all_but(net, owned, method.fixed)
    x, wanted = (Tensor(values) for values in batch())
    optimizer = AdamW(
        trained.values(),
        Schedule(kind="constant", peak=LR, warmup_steps=0, total_steps=STEPS),
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=DECAY,
        decay_all=True,
    )
    slopes = ms.value_and_grad(lambda: ops.square(net(x) - wanted).mean(), None, list(trained.values()))
    found = {"output": net(x).asnumpy()}
    for step in range(STEPS):
        _, gradients = slopes()
        if step == 0:
            found |= {f"gradient {part}": g.asnumpy() for part, g in zip(trained, gradients, strict=True)}
        optimizer(gradients, Tensor(True))
    found |= {f"trained {part}": p.asnumpy() for part, p in trained.items()}
    update = method.merge(config, {p.name: p.asnumpy() for p in of_part.values()})
    found["merged"] = update("first.weight", parameters["first.weight"].asnumpy())
    assert found.keys() == PEFT[label].keys()
    for key, values in PEFT[label].items():
        np.testing.assert_allclose(found[key].reshape(-1), values, rtol=1e-5, atol=1e-5, err_msg=key)
    by_rows = [
        update("first.weight", parameters["first.weight"].asnumpy()[i : i + 3], slice(i, i + 3)) for i in (0, 3, 6)
    ]
    np.testing.assert_allclose(np.concatenate(by_rows), found["merged"], atol=1e-6)
