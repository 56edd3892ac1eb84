"""Targets: roles, Hugging Face names, globs, all-linear; near misses; swapped cells keep the base's names."""

import numpy as np
import pytest
from mindspore import Tensor, nn

from petrun.errors import TargetError, TrainingError
from petrun.graph.freeze import freeze_all_but, match_parameters
from petrun.graph.sites import Sites
from petrun.graph.surgery import resolve_targets, swap


class Attention(nn.Cell):
    def __init__(self):
        super().__init__()
        self.q = nn.Dense(4, 4)
        self.v = nn.Dense(4, 4)


class Layer(nn.Cell):
    def __init__(self):
        super().__init__()
        self.attn = Attention()
        self.mlp = nn.SequentialCell(nn.Dense(4, 8), nn.Dense(8, 4))

    def construct(self, x):
        return self.mlp(self.attn.v(self.attn.q(x)))


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.layers = nn.CellList([Layer(), Layer()])
        self.head = nn.Dense(4, 3)

    def construct(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


SITES = Sites(
    linears={"q": "layers.*.attn.q", "v": "layers.*.attn.v", "ff": "layers.*.mlp.?"},
    default_roles=("q", "v"),
    hf_paths={f"layers.{i}.attn.{s}": f"model.layers.{i}.self_attn.{s}_proj" for i in range(2) for s in "qv"}
    | {"head": "lm_head"},
)
Q = ("layers.0.attn.q", "layers.1.attn.q")
V = ("layers.0.attn.v", "layers.1.attn.v")


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (None, {*Q, *V}),
        (["q"], {*Q}),
        (["q_proj"], {*Q}),
        (["self_attn.v_proj"], {*V}),
        (["model.layers.1.self_attn.q_proj"], {Q[1]}),
        (["layers.*.attn.*"], {*Q, *V}),
        (["layers.0.*"], {Q[0], V[0], "layers.0.mlp.0", "layers.0.mlp.1"}),
        (["*.q_proj"], {*Q}),
        (["all-linear"], {*Q, *V, *(f"layers.{i}.mlp.{j}" for i in range(2) for j in range(2))}),
        (["q", "head"], {*Q, "head"}),
        (["lm_head"], {"head"}),
    ],
)
def test_targets(targets, expected):
    assert set(resolve_targets(Net(), SITES, targets)) == expected


def test_exclude():
    assert resolve_targets(Net(), SITES, ["q", "v"], ["layers.0.*"]) == (Q[1], V[1])


@pytest.mark.parametrize(
    ("targets", "exclude", "message"),
    [
        (["q", "qq_proj"], [], "--target qq_proj matches no linear layer. Did you mean q_proj"),
        (["model.layers.7.self_attn.q_proj"], [], "model.layers.1.self_attn.q_proj"),
        (["layers.*.atn.*"], [], "--target layers.*.atn.* matches no linear layer"),
        (["q"], ["v"], "--exclude v matches 2 layers, such as"),
        (["q"], ["qq"], "--exclude qq matches none of the targets. Did you mean q"),
        (["q"], ["q"], "takes away every layer"),
        ([], [], "--target names nothing"),
    ],
)
def test_nothing_matched_is_an_error(targets, exclude, message):
    with pytest.raises(TargetError) as caught:
        resolve_targets(Net(), SITES, targets, exclude)
    assert message in caught.value.message


def test_all_bad_targets_are_reported_at_once():
    with pytest.raises(TargetError) as caught:
        resolve_targets(Net(), SITES, ["bad_one", "bad_two"])
    assert "bad_one" in caught.value.message and "bad_two" in caught.value.message
    assert "Roles of this model: q, v, ff" in caught.value.hint


class Twice(nn.Cell):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.extra = nn.Dense(4, 4, weight_init="ones", bias_init="zeros")

    def construct(self, x):
        return 2 * self.inner(x)


def test_swap_takes_effect_on_a_compiled_net_and_keeps_names():
    net = Net()
    net.set_train(False)
    x = Tensor(np.ones((2, 4), np.float32))
    before = net(x).asnumpy()
    names = [p.name for p in net.get_parameters()]
    added = swap(net, {"head": Twice, "layers.1.attn.q": Twice})
    assert sorted(added) == sorted(
        f"{p}.extra.{leaf}" for p in ("head", "layers.1.attn.q") for leaf in ("weight", "bias")
    )
    assert sorted(p.name for p in net.get_parameters()) == sorted([*names, *added])
    after = net(x).asnumpy()
    assert np.abs(after - 2 * before).max() > 0.0 and not np.allclose(after, before)


def test_swap_inside_a_sequential_cell():
    net = Net()
    net.set_train(False)
    x = Tensor(np.ones((2, 4), np.float32))
    inner = net.layers[0].mlp
    before = inner(x).asnumpy()
    swap(net, {"layers.0.mlp.1": Twice})
    np.testing.assert_allclose(net.layers[0].mlp(x).asnumpy(), 2 * before, rtol=1e-6, atol=1e-6)


def test_freeze_trains_exactly_the_owned_names():
    net = Net()
    done = freeze_all_but(net, ["head.weight", "head.bias"])
    assert [p.name for p in done.parameters] == ["head.weight", "head.bias"] == [p.name for p in net.trainable_params()]
    assert done.trained_values == 15
    assert done.all_values == sum(p.size for p in net.get_parameters())
    again = freeze_all_but(net, ["layers.0.attn.q.weight"])
    assert [p.name for p in again.parameters] == ["layers.0.attn.q.weight"]


def test_nothing_trainable_is_an_error():
    with pytest.raises(TrainingError, match="nothing is trainable"):
        freeze_all_but(Net(), [])
    with pytest.raises(TrainingError, match=r"no\.such"):
        freeze_all_but(Net(), ["no.such"])


def test_parameter_patterns():
    assert match_parameters(Net(), ["head.*"], "train.train_also") == ("head.weight", "head.bias")
    with pytest.raises(TargetError, match="hed"):
        match_parameters(Net(), ["hed.*"], "train.train_also")
