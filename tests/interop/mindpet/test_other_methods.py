"""MindPet's checkpoints of adapters, low-rank adapters, ptuning2 and BitFit: made with its cells, read into a plain net."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from petrun.delta import METHODS, AdapterDense, LowRankAdapterDense, PrefixEncoder
from petrun.errors import DeltaError
from petrun.graph.sites import Sites
from petrun.interop.convert import algo_of, from_mindpet, to_net_names

SITES = Sites(linears={"a": "body.*"}, cores="layers.*.core", layers=2, kv_heads=2, head_dim=3)


class Net(nn.Cell):
    """Two linear layers and a head. A user of MindPet writes its cells in the place of the first two."""

    def __init__(self, make=nn.Dense):
        super().__init__()
        self.body = nn.SequentialCell([make(6, 6), make(6, 8)])
        self.norm = nn.LayerNorm((8,))
        self.head = nn.Dense(8, 2)

    def construct(self, x):
        return self.head(self.norm(self.body(x)))


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def trained(net):
    """Every parameter at another value, as if it had been trained."""
    for i, p in enumerate(net.get_parameters()):
        if p.dtype == ms.float32:
            p.set_data(Tensor(numbers(p.shape, i)))
    return {p.name: p.asnumpy() for p in net.get_parameters()}


def with_state(arrays):
    """What MindPet's callback saves: the optimizer's slots and scalars as well."""
    slots = {f"{slot}.{name}": values * 0 for slot in ("moment1", "moment2") for name, values in arrays.items()}
    return {**arrays, **slots, "learning_rate": np.float32(0.1), "global_step": np.array([7], np.int32)}


def loaded_into_plain_net(delta, values):
    """A plain net with the base's values, the delta's method and the delta's values."""
    net = Net()
    method = METHODS[delta.algo]
    owned = method.attach(net, method.config(**delta.config), SITES, 0)
    assert set(owned) <= set(delta.tensors)
    for p in net.get_parameters():
        p.set_data(Tensor(np.array(delta.tensors[p.name] if p.name in delta.tensors else values[p.name])))
    return net


CELLS = {
    "adapter": (
        lambda i, o: AdapterDense(i, o, bottleneck_size=5),
        {"bottleneck": 5, "target": ["body.0", "body.1"]},
    ),
    "low_rank_adapter": (
        lambda i, o: LowRankAdapterDense(i, o, reduction_factor=2, low_rank_size=3),
        {"reduction_factor": 2, "low_rank_size": 3, "target": ["body.0", "body.1"]},
    ),
}


@pytest.mark.parametrize("mark", ["mindpet_delta_", "tk_delta_"])
@pytest.mark.parametrize("algo", CELLS)
def test_adapters(write, algo, mark):
    make, settings = CELLS[algo]
    theirs = Net(make)
    values = trained(theirs)
    saved = {n: v for n, v in values.items() if "mindpet_delta_" in n or n.startswith("head.")}
    raw = write(with_state({n.replace("mindpet_delta_", mark): v for n, v in saved.items()}))
    assert algo_of(raw) == algo
    delta = to_net_names(raw, {})
    assert (delta.algo, delta.config) == (algo, settings) and len(delta.digest) == 64
    assert set(delta.tensors) == set(saved)
    ours = loaded_into_plain_net(delta, values)
    x = Tensor(numbers((3, 6), 99))
    np.testing.assert_allclose(ours(x).asnumpy(), theirs(x).asnumpy(), rtol=1e-5, atol=1e-5)


def test_an_adapter_that_is_the_net_itself(write):
    values = trained(AdapterDense(6, 4, bottleneck_size=3))
    delta = from_mindpet(write({n: v for n, v in values.items() if "mindpet" in n}), None)
    assert delta.config == {"bottleneck": 3, "target": [""]}


BLOCK = "q.mindpet_delta_adapter.mindpet_delta_adapter_block.mindpet_delta_adapter_"
LOW = "q.mindpet_delta_low_rank_adapter.mindpet_delta_low_rank_adapter_down_sampler.mindpet_delta_low_rank_adapter_weight_"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({f"{BLOCK}up_sampler.weight": numbers((6, 5))}, r"lacks q\..*down_sampler\.weight"),
        ({f"{BLOCK}down_sampler.weight": numbers((5,))}, r"is \[5\], not a matrix"),
        (
            {f"{BLOCK}down_sampler.weight": numbers((5, 6)), f"k{BLOCK[1:]}down_sampler.weight": numbers((4, 6))},
            "the bottleneck of k is 4, of q 5; petrun's adapters share one",
        ),
        (
            {"layer.adapter.mindpet_delta_adapter_block.mindpet_delta_adapter_down_sampler.weight": numbers((5, 6))},
            "part of an adapter that the model has by itself, not of AdapterDense",
        ),
        ({f"{LOW}left": numbers((6, 1))}, r"lacks q\..*weight_right"),
        (
            {f"{LOW}left": numbers((10, 1)), f"{LOW}right": numbers((1, 4))},
            "no reduction factor gives these bottlenecks: q 4 of 10",
        ),
        ({f"{BLOCK}down_sampler.weight": np.full((5, 6), np.nan, np.float32)}, "holds NaN"),
    ],
)
def test_adapters_that_do_not_fit(write, arrays, message):
    with pytest.raises(DeltaError, match=message):
        from_mindpet(write(arrays), None)


def test_a_reduction_factor_that_suits_all_widths(write):
    arrays = {}
    for path, width in (("q", 100), ("k", 33)):
        start = LOW.replace("q.", f"{path}.", 1)
        arrays |= {f"{start}left": numbers((width, 2)), f"{start}right": numbers((2, width // 7))}
    assert from_mindpet(write(arrays), None).config["reduction_factor"] in (7, 8)
    assert 100 // 7 == 14 and 33 // 7 == 4 and 100 // 8 != 14


@pytest.mark.parametrize("start", ["", "transformer.prefix."])
@pytest.mark.parametrize("projection", [False, True])
def test_ptuning2(write, projection, start):
    encoder = PrefixEncoder(4, 2, 2, 3, projection, 7, 0.0)
    values = trained(encoder)
    expected = encoder(1)
    head = {"head.weight": numbers((2, 8)), "head.bias": numbers((2,))}
    raw = write(with_state({**{start + n.replace("mindpet_", "tk_", 1): v for n, v in values.items()}, **head}))
    assert algo_of(raw) == "ptuning2"
    delta = from_mindpet(raw, None, SITES)
    assert delta.config == {"tokens": 4, "projection": False} and len(delta.digest) == 64
    tables = [f"layers.{i}.core.encoder.mindpet_delta_ptuning2.source.table" for i in range(2)]
    assert set(delta.tensors) == {*tables, *head}
    for name, layer in zip(tables, expected, strict=True):
        # (2, B, N, P, D) -> (P, [key | value])
        want = layer.asnumpy()[:, 0].transpose(2, 0, 1, 3).reshape(4, 12)
        np.testing.assert_allclose(delta.tensors[name], want, rtol=1e-5, atol=1e-5)


P = "mindpet_delta_ptuning2_"
TABLE = {f"{P}embedding.embedding_table": numbers((4, 24))}


@pytest.mark.parametrize(
    ("arrays", "sites", "message"),
    [
        (TABLE, None, "the base does not say where these go"),
        (TABLE, Sites(cores="layers.*.core", layers=3, kv_heads=2, head_dim=3), "this base has 3 layers of 2 .* 36 wide"),
        ({f"{P}prefix": np.arange(4)}, SITES, r"lacks mindpet_delta_ptuning2_embedding\.embedding_table"),
        ({**TABLE, f"{P}dense_in.weight": numbers((7, 24))}, SITES, "lacks mindpet_delta_ptuning2_dense_"),
        ({**TABLE, f"{P}gate": numbers((7, 24))}, SITES, "holds mindpet_delta_ptuning2_gate"),
        (
            {**TABLE, f"{P}dense_in.weight": numbers((7, 24)), f"{P}dense_in.bias": numbers((7,)),
             f"{P}dense_out.weight": numbers((24, 6)), f"{P}dense_out.bias": numbers((24,))},
            SITES,
            "do not multiply",
        ),
        ({f"{P}embedding.embedding_table": np.full((4, 24), np.inf, np.float32)}, SITES, "holds NaN or infinity"),
    ],
)  # fmt: skip
def test_ptuning2_that_does_not_fit(write, arrays, sites, message):
    with pytest.raises(DeltaError, match=message):
        from_mindpet(write(arrays), None, sites)


class TestBitfit:
    BIASES = ("body.0.bias", "body.1.bias")

    def test_biases_and_a_head(self, write):
        theirs = Net()
        values = trained(theirs)
        saved = {n: v for n, v in values.items() if n in self.BIASES or n.startswith("head.")}
        raw = write(with_state(saved))
        assert raw.origin == "mindpet" and algo_of(raw) == "bitfit"
        delta = to_net_names(raw, {})
        # MindPet's mode leaves out the shifts of LayerNorms.
        assert delta.config == {"bias_include": list(self.BIASES)} and set(delta.tensors) == set(saved)
        ours = loaded_into_plain_net(delta, values)
        x = Tensor(numbers((3, 6), 99))
        np.testing.assert_allclose(ours(x).asnumpy(), theirs(x).asnumpy(), rtol=1e-6, atol=1e-6)

    def test_what_is_no_bitfit_checkpoint(self, tmp_path, write):
        whole = trained(Net())
        rest = {n: v for n, v in whole.items() if n != "body.0.bias"}
        for arrays in (whole, {"body.0.bias": whole["body.0.bias"], "embed.weight": numbers((9, 6))}, rest):
            with pytest.raises(DeltaError, match="is not a delta"):
                write(arrays)

    def test_alpha_is_out_of_place(self, write):
        with pytest.raises(DeltaError, match="is a MindPet bitfit delta, which has no alpha"):
            from_mindpet(write({"a.bias": numbers((3,)), "norm.beta": numbers((3,))}), 8.0)
