"""The loss of latents with noise, a LoRA's gradients and five AdamW steps, against diffusers and peft (diffusers_cases.py)."""

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from petrun import kernels
from petrun.delta import find_method
from petrun.graph.freeze import freeze_all_but
from petrun.models import unet
from petrun.models.noise_schedule import parse_schedule
from petrun.train.adamw import AdamW
from petrun.train.diffusion import DiffusionLoss, DiffusionSettings, step_weights
from petrun.train.loop import make_plan, train
from petrun.train.schedules import Schedule
from petrun.train.step import TrainStep
from tests.models.diffusers_cases import (
    DECAY,
    LORA,
    MERGED,
    RATE,
    ROWS,
    SCALING,
    SCHEDULERS,
    SEED,
    STEPS,
    STORED,
    TRAININGS,
    UNET,
    drawn,
    lora_values,
    training_rows,
    values,
)

FOUND = json.loads(STORED.read_text())["cases"]
PEFT = {"mindpet_delta_lora_a": "lora_A.weight", "mindpet_delta_lora_b": "lora_B.weight"}
INPUTS = ("latents", "states")


@pytest.fixture(autouse=True)
def _first_step():
    """Noise is drawn by the step's number, at which a run before in this process may have left the counter."""
    _reset()
    yield
    _reset()


def _reset():
    kernels.step_counter().set_data(Tensor(0, ms.int32))
    kernels.batch_offset().set_data(Tensor([0, 1], ms.int32))


def peft_name(name):
    layer, _, leaf = name.rpartition(".")
    return f"base_model.model.{layer}.{PEFT[leaf]}"


def with_lora():
    """The U-Net with a LoRA that is not zero, and what trains of it."""
    method, config = find_method("lora"), unet.parse(UNET)
    net = unet.build(config)
    for parameter in net.get_parameters():
        parameter.set_data(Tensor(values(parameter.name, tuple(parameter.shape))))
    settings = method.config(rank=LORA["r"], alpha=LORA["lora_alpha"])
    trainable = freeze_all_but(net, method.attach(net, settings, unet.sites(config), 0), ())
    for parameter in trainable.parameters:
        parameter.set_data(Tensor(lora_values(peft_name(parameter.name), tuple(parameter.shape))))
    return net.set_train(True), settings, trainable


def loss_of(net, name):
    kind, settings = TRAININGS[name]
    return DiffusionLoss(net, parse_schedule(SCHEDULERS[kind]), DiffusionSettings(scaling=SCALING, **settings), SEED)


def rows(targets=(0,) * ROWS):
    return dict(zip((*INPUTS, "targets"), (*training_rows(), np.array(targets, np.int32)), strict=True))


SLOW = [name if name == "all" else pytest.param(name, marks=pytest.mark.all_only) for name in TRAININGS]


@pytest.mark.all_only
@pytest.mark.parametrize("name", TRAININGS)
def test_five_steps_are_those_of_diffusers_and_peft(graph_mode, name):
    net, settings, trainable = with_lora()
    schedule = Schedule(kind="constant", peak=RATE, warmup_steps=0, total_steps=STEPS)
    optimizer = AdamW(trainable.parameters, schedule, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=DECAY)
    step = TrainStep(loss_of(net, name), optimizer, clip=0.0)
    losses = []
    plan = make_plan(1, 1, None, STEPS)
    train(step, iter([rows()] * STEPS), plan, INPUTS, lambda record: losses.append(record["loss"]))
    wanted = FOUND[f"lora {name}"]
    np.testing.assert_allclose(losses, wanted["losses"], atol=1e-4)
    found = {peft_name(p.name): p.asnumpy() for p in trainable.parameters}
    assert found.keys() == wanted["trained"].keys()
    for key, tensor in found.items():
        np.testing.assert_allclose(tensor.ravel(), wanted["trained"][key], atol=1e-4, err_msg=key)
    update = find_method("lora").merge(settings, {p.name: p.asnumpy() for p in trainable.parameters})
    shape = next(tuple(p.shape) for p in net.get_parameters() if p.name == MERGED)
    np.testing.assert_allclose(update(MERGED, values(MERGED, shape)).ravel(), wanted["merged"], atol=1e-4)


@pytest.mark.parametrize("name", SLOW)
def test_gradients_are_those_of_diffusers_and_peft(pynative, name):
    net, _, trainable = with_lora()
    kernels.batch_offset().set_data(Tensor([0, ROWS], ms.int32))
    batch = {key: Tensor(array) for key, array in rows().items()}
    gradient = ms.value_and_grad(lambda *given: loss_of(net, name)(*given)[0], None, trainable.parameters)
    value, found = gradient(Tensor(float(ROWS), ms.float32), batch["targets"], batch["latents"], batch["states"])
    wanted = FOUND[f"lora {name}"]
    assert float(value.asnumpy()) == pytest.approx(wanted["losses"][0], abs=1e-5)
    for parameter, each in zip(trainable.parameters, found, strict=True):
        key = peft_name(parameter.name)
        np.testing.assert_allclose(each.asnumpy().ravel(), wanted["gradients"][key], atol=1e-5, err_msg=key)


class Recalled(nn.Cell):
    """In the place of a U-Net: says back what it was given."""

    def construct(self, latents, steps, states):
        return latents


def test_rows_without_a_target_count_for_nothing(mode):
    """Given a loss of two rows of which one is padding, it is that of the other, and the latents are those of the formula."""
    schedule = parse_schedule(SCHEDULERS["sd1"])
    loss = DiffusionLoss(Recalled(), schedule, DiffusionSettings(scaling=SCALING), SEED)
    kernels.batch_offset().set_data(Tensor([0, ROWS], ms.int32))
    batch = {key: Tensor(array) for key, array in rows((0, -100, 0)).items()}
    value, noisy = loss(Tensor(2.0, ms.float32), batch["targets"], batch["latents"], batch["states"])
    z, e, steps = drawn(0, {})
    kept = schedule.kept[steps][:, None, None, None]
    wanted = np.sqrt(kept) * z * SCALING + np.sqrt(1 - kept) * e
    np.testing.assert_allclose(noisy.asnumpy(), wanted, atol=2e-5)
    errors = ((wanted - e) ** 2).mean((1, 2, 3))
    assert float(value.asnumpy()) == pytest.approx((errors[0] + errors[2]) / 2, rel=1e-4)


def test_weights_of_steps_by_their_ratio():
    """Hang et al., section 3.4: with g = 5 a step of ratio r weighs min(r, 5) / r, for velocity min(r, 5) / (r + 1)."""
    noise, velocity = (parse_schedule(SCHEDULERS[kind]) for kind in ("sd1", "velocity"))
    ratio = noise.kept / (1 - noise.kept)
    np.testing.assert_allclose(step_weights(noise, 5.0), np.minimum(1.0, 5.0 / ratio))
    np.testing.assert_allclose(step_weights(velocity, 5.0), np.minimum(ratio, 5.0) / (ratio + 1.0))
    assert (step_weights(noise, None) == 1.0).all()
