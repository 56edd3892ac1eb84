"""LoRA against ten lines of numpy, in both execution modes, and MindPet's documented exceptions."""

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from petrun.delta import METHODS, LoRADense
from petrun.delta.lora import LORA_A, LORA_B, LoraConfig
from petrun.errors import TargetError
from petrun.graph.sites import Sites
from petrun.train.adamw import AdamW
from petrun.train.schedules import Schedule


class Mlp(nn.Cell):
    def __init__(self):
        super().__init__()
        self.first = nn.Dense(6, 8)
        self.second = nn.Dense(8, 5, has_bias=False)

    def construct(self, x):
        return self.second(ops.relu(self.first(x)))


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
def test_forward_is_the_formula(mode, bias, shape):
    a, b = numbers((3, 6), 1), numbers((5, 3), 2)
    cell = LoRADense(6, 5, 3, 12, lora_a_init=Tensor(a), lora_b_init=Tensor(b), has_bias=bias, activation="relu")
    x = numbers(shape, 3)
    w = cell.weight.asnumpy()
    y = x @ w.T + (cell.bias.asnumpy() if bias else 0) + (12 / 3) * (x @ a.T @ b.T)
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), np.maximum(y, 0), atol=2e-5)


def test_a_is_he_uniform_and_b_zero():
    cell = LoRADense(400, 50, 16, 16.0)
    a, b = cell.mindpet_delta_lora_a.asnumpy(), cell.mindpet_delta_lora_b.asnumpy()
    assert a.shape == (16, 400) and b.shape == (50, 16)
    assert not b.any()
    bound = 1 / math.sqrt(400)
    assert np.abs(a).max() <= bound and np.abs(a).max() > 0.99 * bound
    assert abs(a.std() - bound / math.sqrt(3)) < 0.002


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"lora_rank": 0}, ValueError),
        ({"lora_rank": -1}, ValueError),
        ({"lora_rank": True}, TypeError),
        ({"lora_rank": 2.0}, TypeError),
        ({"lora_alpha": 0}, ValueError),
        ({"lora_alpha": True}, TypeError),
        ({"lora_alpha": "1"}, TypeError),
        ({"lora_dropout": 0}, TypeError),
        ({"lora_dropout": 1.0}, ValueError),
        ({"lora_dropout": -0.1}, ValueError),
        ({"lora_a_init": Tensor(np.zeros((3, 3), np.float32))}, ValueError),
        ({"lora_b_init": Tensor(np.zeros((3, 3), np.float32))}, ValueError),
        ({"param_init_type": ms.int32}, TypeError),
        ({"compute_dtype": ms.float64}, TypeError),
        ({"activation": "no_such"}, KeyError),
        ({"activation": 3}, TypeError),
    ],
)
def test_documented_exceptions(arguments, error):
    with pytest.raises(error):
        LoRADense(**{"in_channels": 6, "out_channels": 5, "lora_rank": 2, "lora_alpha": 4, **arguments})


def test_negative_alpha_is_allowed_and_subtracts():
    a, b = numbers((2, 6), 1), numbers((5, 2), 2)
    plus = LoRADense(6, 5, 2, 4, lora_a_init=Tensor(a), lora_b_init=Tensor(b), weight_init="zeros", bias_init="zeros")
    minus = LoRADense(6, 5, 2, -4, lora_a_init=Tensor(a), lora_b_init=Tensor(b), weight_init="zeros", bias_init="zeros")
    x = Tensor(numbers((3, 6)))
    np.testing.assert_allclose(plus(x).asnumpy(), -minus(x).asnumpy(), atol=1e-6)


def test_shard_reaches_every_operator():
    cell = LoRADense(6, 4, 2, 4, activation="gelu")
    cell.shard(
        ((2, 1), (2, 1)), ((2, 2), (2,)), ((2, 1),), ((2, 1), (1, 1)), ((2, 1), (2, 1)), ((2, 2), ()), ((2, 2), (2, 2)), ((2, 2),)
    )  # fmt: skip
    strategies = {
        "matmul": cell.matmul,
        "bias_add": cell.bias_add,
        "dropout": cell.lora_dropout.dropout,
        "a": cell.lora_a_matmul,
        "b": cell.lora_b_matmul,
        "mul": cell.mul,
        "add": cell.add,
    }
    found = {name: op.in_strategy for name, op in strategies.items()}
    assert found["matmul"] == ((2, 1), (2, 1)) and found["b"] == ((2, 1), (2, 1))
    assert found["dropout"] == ((2, 1), (2, 1)) and found["mul"] == ((2, 2), ())
    assert all(strategy is not None for strategy in found.values())


def test_shard_refuses_log_softmax():
    with pytest.raises(ValueError, match="LogSoftmax"):
        LoRADense(6, 4, 2, 4, activation="logsoftmax").shard(strategy_activation=((1, 2),))


@pytest.mark.parametrize("variant", ["lora", "rslora"])
def test_attached_net_equals_base_then_the_folded_weights(mode, variant):
    """Identity at initialisation on a net that was called before; afterwards the folded base equals base plus delta."""
    method = METHODS["lora"]
    net = Mlp()
    net.set_train(False)
    x = Tensor(numbers((4, 6), 7))
    before = net(x).asnumpy()
    base = {p.name: p.asnumpy().copy() for p in net.get_parameters()}
    config = LoraConfig(rank=2, alpha=6, variant=variant, target=("all-linear",), rank_pattern={"second": 3})
    owned = method.attach(net, config, Sites(), 0)
    assert set(owned) == {f"{c}.{leaf}" for c in ("first", "second") for leaf in (LORA_A, LORA_B)}
    assert {p.name for p in net.get_parameters()} == set(base) | set(owned)
    np.testing.assert_array_equal(net(x).asnumpy(), before)
    delta = {}
    for p in net.get_parameters():
        if p.name in owned:
            p.set_data(Tensor(numbers(p.shape, len(p.name))))
            delta[p.name] = p.asnumpy()
    changed = net(x).asnumpy()
    assert np.abs(changed - before).max() > 0.1
    update = method.merge(config, delta)
    merged = {name: update(name, value) for name, value in base.items()}
    scale = 6 / 2 if variant == "lora" else 6 / math.sqrt(2)
    np.testing.assert_allclose(
        merged["first.weight"],
        base["first.weight"] + scale * delta[f"first.{LORA_B}"] @ delta[f"first.{LORA_A}"],
        rtol=1e-5,
        atol=1e-5,
    )
    np.testing.assert_array_equal(merged["first.bias"], base["first.bias"])
    plain = np.maximum(x.asnumpy() @ merged["first.weight"].T + merged["first.bias"], 0) @ merged["second.weight"].T
    np.testing.assert_allclose(changed, plain, rtol=1e-5, atol=1e-4)


def test_lora_plus_trains_b_faster_by_its_ratio(mode):
    """Equations 6 and 7 in the optimizer: three steps of AdamW in numpy, with 16 times the rate for B."""
    method, config = METHODS["lora"], LoraConfig(rank=2, target=("all-linear",), lora_plus_ratio=16.0)
    net = Mlp()
    owned = method.attach(net, config, Sites(), 0)
    trained = [p for p in net.get_parameters() if p.name in owned]
    start = [p.asnumpy().copy() for p in trained]
    optimizer = AdamW(
        trained,
        Schedule(kind="constant", peak=1e-3, warmup_steps=0, total_steps=5),
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=0.1,
        rates={p.name: method.rate(config, p.name) for p in trained},
    )
    rng = np.random.default_rng(0)
    moments = [(0.0, 0.0)] * len(trained)
    expected = [value.astype(np.float64) for value in start]
    for t in (1, 2, 3):
        grads = [rng.normal(size=p.shape).astype(np.float32) for p in trained]
        optimizer(tuple(Tensor(g) for g in grads), Tensor(True))
        for i, (p, g) in enumerate(zip(trained, grads, strict=True)):
            rate = 1e-3 * (16.0 if p.name.endswith(LORA_B) else 1.0)
            m, v = 0.9 * moments[i][0] + 0.1 * g, 0.999 * moments[i][1] + 0.001 * g * g
            moments[i] = (m, v)
            step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            expected[i] = expected[i] * (1 - rate * 0.1) - rate * step
    for p, value in zip(trained, expected, strict=True):
        np.testing.assert_allclose(p.asnumpy(), value, rtol=1e-4, atol=1e-6, err_msg=p.name)
    assert method.rate(LoraConfig(), f"first.{LORA_B}") == 1.0, "off unless asked for"
    assert method.rate(config, "head.weight") == 1.0, "a head learns at the run's rate"


def test_initial_a_depends_on_seed_and_path_alone():
    def initial(seed):
        net = Mlp()
        METHODS["lora"].attach(net, LoraConfig(rank=2, target=("all-linear",)), Sites(), seed)
        return {p.name: p.asnumpy() for p in net.get_parameters() if p.name.endswith(LORA_A)}

    one, again, other = initial(1), initial(1), initial(2)
    for name in one:
        np.testing.assert_array_equal(one[name], again[name])
        assert np.abs(one[name] - other[name]).max() > 0
    assert one[f"first.{LORA_A}"].shape != one[f"second.{LORA_A}"].shape


def test_a_target_that_matches_nothing_names_the_near_misses():
    with pytest.raises(TargetError) as caught:
        METHODS["lora"].attach(Mlp(), LoraConfig(target=("first", "secnd")), Sites(), 0)
    assert "--target secnd matches no linear layer" in caught.value.message
    assert "second" in caught.value.message


def test_a_pattern_that_names_no_adapted_layer():
    config = LoraConfig(target=("first",), rank_pattern={"frist": 2}, alpha_pattern={"first": 3.0, "second": 1.0})
    with pytest.raises(TargetError) as caught:
        METHODS["lora"].attach(Mlp(), config, Sites(), 0)
    assert "delta.rank_pattern: frist is none of the adapted layers. Did you mean first?" in caught.value.message
    assert "delta.alpha_pattern: second is none" in caught.value.message and "first is none" not in caught.value.message
