"""Composition: one owning part, settings side by side, and every function of the record joined."""

import numpy as np
import pytest
from mindspore import Tensor, nn
from pydantic import Field, ValidationError

from petrun.delta import METHODS, find_method
from petrun.delta.compose import compose
from petrun.delta.method import Method, MethodConfig, same_values
from petrun.errors import ConfigError
from petrun.graph.sites import Sites


class FirstConfig(MethodConfig):
    width: int = Field(2, ge=1)


class SecondConfig(MethodConfig):
    strength: float = 0.5


def method(name, config, owning, **more):
    return Method(
        name=name,
        config=config,
        default_lr=0.1 if owning else 0.9,
        attach=lambda net, config, sites, seed: (f"{name}.{seed}",),
        owning=owning,
        **more,
    )


FIRST = method(
    "first",
    FirstConfig,
    True,
    merge=lambda config, tensors: lambda name, value, rows=slice(None): value * config.width,
    wrap_loss=lambda loss, net, config: (*loss, config.width),
    rate=lambda config, name: 4.0,
    tokens=lambda config: 7,
    hook=lambda net, config, parameters, steps: ("hook", steps),
    fixed=("mask",),
    identity=False,
)
SECOND = method(
    "second",
    SecondConfig,
    False,
    merge=same_values,
    wrap_loss=lambda loss, net, config: (*loss, config.strength),
    rate=lambda config, name: 0.5,
)


def test_a_composition_does_what_its_parts_do():
    both = compose((SECOND, FIRST))
    assert both.name == "first+second" and both is compose((SECOND, FIRST))
    config = both.config(width=3, strength=0.25)
    assert set(config.model_dump()) == {"width", "strength"}
    assert isinstance(config, FirstConfig) and isinstance(config, SecondConfig)
    with pytest.raises(ValidationError):
        both.config(width=0)
    with pytest.raises(ValidationError):
        both.config(other=1)
    assert both.default_lr == 0.1 and both.owning and not both.identity
    # What joins comes first: it sees the base alone.
    assert both.attach(None, config, Sites(), 5) == ("second.5", "first.5")
    assert both.merge(config, {})("w", np.ones(2)).tolist() == [3.0, 3.0]
    assert both.wrap_loss((), None, config) == (3, 0.25)
    assert both.rate(config, "w") == 2.0 and both.tokens(config) == 7 and both.fixed == ("mask",)
    assert both.hook(None, config, (), 9) == ("hook", 9)


def test_one_part_is_itself_and_an_unmergeable_part_makes_the_whole_so():
    assert compose((FIRST,)) is FIRST
    loose = method("loose", SecondConfig, False)
    assert compose((FIRST, loose)).merge is None


@pytest.mark.parametrize(
    ("algo", "message"),
    [
        ("lora+full", "lora and full cannot be joined"),
        ("lora+lora", "lora stands twice"),
        ("lora+", "unknown algorithm ''"),
        ("lora+bitfitt", "unknown algorithm 'bitfitt'. Did you mean bitfit"),
    ],
)
def test_parts_that_do_not_join(algo, message):
    with pytest.raises(ConfigError) as caught:
        find_method(algo)
    assert message in caught.value.message


def test_names_are_put_in_order():
    assert find_method("bitfit + lora").name == "lora+bitfit"
    assert find_method("r_drop+bitfit+lora").name == "lora+bitfit+r_drop"


def test_settings_of_methods_that_compose_have_names_of_their_own():
    composing = [m for m in METHODS.values() if not m.owning]
    assert {m.name for m in composing} == {"bitfit", "r_drop", "rows"}
    for part in composing:
        for other in METHODS.values():
            if other is not part:
                assert not set(part.config.model_fields) & set(other.config.model_fields), (part.name, other.name)


def test_lora_and_bitfit_train_the_layers_and_the_biases():
    class Net(nn.Cell):
        def __init__(self):
            super().__init__()
            self.first = nn.Dense(4, 3)
            self.norm = nn.LayerNorm((3,))

        def construct(self, x):
            return self.norm(self.first(x))

    net = Net()
    x = Tensor(np.arange(8, dtype=np.float32).reshape(2, 4))
    before = net(x).asnumpy()
    both = find_method("lora+bitfit")
    owned = both.attach(net, both.config(rank=2), Sites(), 0)
    leaves = ("mindpet_delta_lora_a", "mindpet_delta_lora_b", "bias")
    assert set(owned) == {*(f"first.{leaf}" for leaf in leaves), "norm.beta"}
    np.testing.assert_array_equal(net(x).asnumpy(), before)
