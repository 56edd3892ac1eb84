"""BitFit: which parameters it owns, alone and beside methods that bring biases of their own."""

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from petrun.delta import METHODS, find_method
from petrun.delta.bitfit import BitfitConfig, biases
from petrun.errors import ConfigError, TargetError
from petrun.graph.sites import Sites
from petrun.models.factory import load_model
from tests.tiny import write_base


class Net(nn.Cell):
    """Biases under every name that MindSpore gives them, and what only looks like one."""

    def __init__(self):
        super().__init__()
        self.first = nn.Dense(4, 6)
        self.norm = nn.LayerNorm((6,))
        self.plain = nn.Dense(6, 6, has_bias=False)
        self.bias_ih_l0 = Parameter(Tensor(np.zeros(6, np.float32)), name="bias_ih_l0")
        self.position_bias = Parameter(Tensor(np.zeros((6, 2), np.float32)), name="position_bias")
        self.unbiased = Parameter(Tensor(np.zeros(6, np.float32)), name="unbiased")
        self.counts_bias = Parameter(Tensor(np.zeros(6, np.int32)), name="counts_bias", requires_grad=False)

    def construct(self, x):
        return self.plain(self.norm(self.first(x))) + self.bias_ih_l0


def attached(net, **settings):
    return METHODS["bitfit"].attach(net, BitfitConfig(**settings), Sites(), 0)


def test_every_bias_and_nothing_else():
    assert set(attached(Net())) == {"first.bias", "norm.beta", "bias_ih_l0"}
    assert set(attached(Net(), bias_exclude="norm.*, bias_ih_*")) == {"first.bias"}
    assert set(attached(Net(), bias_include=("*.b*",), bias_exclude="*.beta")) == {"first.bias"}


def load(tmp_path, family, **changes):
    return load_model(write_base(tmp_path, family, **changes), num_labels=2 if family == "bert" else None)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_family_with_biases_gives_them_all(tmp_path, family):
    loaded = load(tmp_path, family)
    owned = METHODS["bitfit"].attach(loaded.net, BitfitConfig(), loaded.sites, 0)
    assert set(owned) == {p.name for p in loaded.net.get_parameters() if p.name.endswith(".bias")}
    assert {name.rpartition(".")[0] for name in owned} >= {"layers.0.attn.o", "layers.1.mlp.down"}
    norms = [name for name in owned if "norm" in name]
    assert len(norms) == {"bert": 1 + 2 * 2, "gpt2": 2 * 2 + 1}[family]


def test_biases_of_queries_keys_and_values(tmp_path):
    loaded = load(tmp_path, "llama", model_type="qwen2")
    owned = METHODS["bitfit"].attach(loaded.net, BitfitConfig(), loaded.sites, 0)
    assert set(owned) == {f"layers.{i}.attn.{role}.bias" for i in range(2) for role in "qkv"}


def test_a_model_without_biases(tmp_path):
    loaded = load(tmp_path, "llama")
    with pytest.raises(TargetError, match="the model has no bias that bitfit could train") as caught:
        METHODS["bitfit"].attach(loaded.net, BitfitConfig(), loaded.sites, 0)
    assert "Qwen2 in q, k and v" in caught.value.hint and "RMSNorm has no shift" in caught.value.hint


def test_exclusions_that_name_nothing_or_everything():
    with pytest.raises(
        TargetError, match=r"delta\.bias_exclude: nrm\.beta matches no bias\. Did you mean norm\.beta\?"
    ):
        attached(Net(), bias_exclude=("nrm.beta", "first.*"))
    with pytest.raises(
        TargetError, match=r"delta\.bias_include: second\.bias matches no bias\. Did you mean first\.bias\?"
    ):
        attached(Net(), bias_include=("second.bias",))
    with pytest.raises(TargetError, match="takes away every bias"):
        attached(Net(), bias_exclude=("*",))


@pytest.mark.parametrize("algo", ["adapter+bitfit", "ptuning+bitfit", "bitfit + lora"])
def test_the_biases_of_what_it_joins_are_not_its_own(tmp_path, algo):
    loaded = load(tmp_path, "bert")
    own = set(biases(loaded.net))
    base = {p.name for p in loaded.net.get_parameters()}
    method = find_method(algo)
    owned = method.attach(loaded.net, method.config(bias_exclude=("classifier.bias",)), loaded.sites, 0)
    assert set(owned) & base == own - {"classifier.bias"}
    assert set(owned) - base == {p.name for p in loaded.net.get_parameters()} - base
    # Excluded means excluded, and that holds for the base's parameters alone.
    assert any(name.endswith("bias") for name in set(owned) - base) == (algo != "bitfit + lora")


def test_joint_fold_is_lora_plus_biases(tmp_path):
    loaded = load(tmp_path, "bert")
    method = find_method("lora+bitfit")
    config = method.config(rank=2, alpha=4.0)
    ids = Tensor(np.array([[2, 5, 6, 3]], np.int32))
    inputs = (ids, ops.ones_like(ids), ops.zeros_like(ids))
    base = {p.name: p.asnumpy().copy() for p in loaded.net.get_parameters()}
    owned = method.attach(loaded.net, config, loaded.sites, 0)
    loaded.net.set_train(False)
    rng = np.random.default_rng(0)
    for p in loaded.net.get_parameters():
        if p.name in owned:
            p.set_data(Tensor((p.asnumpy() + 0.3 * rng.normal(size=p.shape)).astype(np.float32)))
    values = {p.name: p.asnumpy() for p in loaded.net.get_parameters() if p.name in owned}
    update = method.merge(config, values)
    fresh = load(tmp_path, "bert")
    fresh.net.set_train(False)
    before = fresh.net(*inputs).asnumpy()
    for p in fresh.net.get_parameters():
        p.set_data(Tensor(update(p.name, values.get(p.name, base[p.name]))))
    after = fresh.net(*inputs).asnumpy()
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, loaded.net(*inputs).asnumpy(), atol=2e-5)


def test_only_one_method_of_a_composition_takes_the_layers():
    with pytest.raises(ConfigError, match="lora and ia3 cannot be joined") as caught:
        find_method("lora+ia3+bitfit")
    assert "bitfit, r_drop, rows" in caught.value.hint
