"""Several deltas on one net: each row as with its delta alone, the base as it is, and nothing compiled to switch."""

import numpy as np
import pytest
from mindspore import Tensor

from petrun.checkpoint.delta import read_delta
from petrun.errors import ConfigError, DeltaError
from petrun.graph.compilations import compilations
from petrun.inference.assembly import attach_delta, fit_delta, set_delta
from petrun.inference.multi_adapter import open_multi_adapter
from petrun.models.factory import load_model
from tests.deltas import make_delta
from tests.tiny import write_base

CASES = {
    "lora": ("lora", {"rank": 2}),
    "rslora": ("lora", {"rank": 4, "variant": "rslora", "target": ("all-linear",)}),
    "dora": ("lora", {"rank": 3, "variant": "dora", "target": ("all-linear",)}),
    "pissa": ("lora+r_drop", {"rank": 2, "variant": "pissa", "dropout": 0.1, "lora_plus_ratio": 4.0}),
    "adalora": ("adalora", {}),
    "ia3": ("ia3", {}),
    "loha": ("loha", {"rank": 2, "alpha": 4.0}),
    "miss": ("miss", {"rank": 5, "target": ("all-linear",)}),
    "vera": ("vera", {"rank": 6, "target": ("all-linear",)}),
    "prefix": ("prefix", {"tokens": 3, "middle": 4}),
    "ptuning2": ("ptuning2", {"tokens": 5}),
    "prompt": ("prompt", {"tokens": 4}),
    "ptuning": ("ptuning", {"tokens": 2, "middle": 4}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made(family, case) -> (base folder, delta read)."""
    folder = tmp_path_factory.mktemp("adapters")
    bases = {}

    def make(family, case):
        if family not in bases:
            bases[family] = write_base(folder / family, family)
        path = folder / f"{family}-{case}.ckpt"
        if not path.exists():
            algo, settings = CASES[case]
            task = "classify" if family == "bert" else "instruct"
            if case == "dora" and family == "gpt2":
                # Its head shares the embedding's weight.
                settings = {**settings, "target": ("qkv", "head")}
            make_delta(path, bases[family], algo, task=task, **settings)
        return bases[family], read_delta(path)

    return make


def load(base, family="llama"):
    return load_model(
        base, task="classify" if family == "bert" else "instruct", num_labels=2 if family == "bert" else None
    )


def inputs(rows, tokens=9):
    """Rows of different lengths: ids, segments (0 = padding) and positions or types."""
    rng = np.random.default_rng(0)
    ids = rng.integers(4, 14, (rows, tokens)).astype(np.int32)
    segments = (np.arange(tokens) < rng.integers(4, tokens + 1, (rows, 1))).astype(np.int32)
    return ids, segments, np.tile(np.arange(tokens, dtype=np.int32), (rows, 1))


def alone(base, family, delta, arrays):
    loaded = load(base, family)
    fitted = fit_delta(delta, loaded, None)
    set_delta(attach_delta(loaded, fitted), fitted)
    return loaded.net(*map(Tensor, arrays)).asnumpy()


def hold(family, made, cases):
    """Row 0 the base, row i the i-th case, in one batch."""
    deltas = {}
    for case in cases:
        base, deltas[case] = made(family, case)
    arrays = inputs(len(cases) + 1)
    if family == "bert":
        arrays = (*arrays[:2], np.zeros_like(arrays[0]))
    real = arrays[1] > 0
    plain = load(base, family).net(*map(Tensor, arrays)).asnumpy()
    loaded = load(base, family)
    loaded, multi_adapter = open_multi_adapter(
        loaded, {n: fit_delta(d, loaded, None) for n, d in deltas.items()}, rows=16
    )
    where = real if plain.ndim == 3 else ...
    np.testing.assert_array_equal(loaded.net(*map(Tensor, arrays)).asnumpy()[where], plain[where])
    multi_adapter.select([multi_adapter.index(None), *map(multi_adapter.index, cases)])
    together = loaded.net(*map(Tensor, arrays)).asnumpy()
    for i, case in enumerate(cases, 1):
        wanted = alone(base, family, deltas[case], arrays)[i]
        seen = real[i] if plain.ndim == 3 else ...
        np.testing.assert_allclose(together[i][seen], wanted[seen], atol=1e-5, err_msg=case)
        # It has an effect, or equality would say nothing.
        assert np.abs(wanted[seen] - plain[i][seen]).max() > 1e-3, case
    np.testing.assert_allclose(together[0], plain[0], atol=1e-6)


def test_kinds_in_one_graph_equal_the_delta_alone(pynative, made):
    hold("llama", made, ["dora", "ia3", "ptuning"])


@pytest.mark.all_only
def test_every_kind_in_one_graph_equals_the_delta_alone(pynative, made):
    hold("llama", made, list(CASES))


@pytest.mark.all_only
@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_every_kind_with_learned_positions(pynative, made, family):
    hold(family, made, list(CASES))


@pytest.mark.all_only
def test_every_kind_with_positions_from_the_mask(pynative, made):
    hold("bloom", made, list(CASES))


@pytest.mark.all_only
def test_every_kind_where_a_prefix_takes_no_positions(pynative, made):
    hold("chatglm", made, [case for case in CASES if "prompt" not in case and case != "ptuning"])


@pytest.mark.all_only
def test_classifiers_bring_their_heads(pynative, made):
    hold("bert", made, ["dora", "ia3"])


def test_switching_compiles_nothing(graph_mode, made):
    base, lora = made("llama", "lora")
    _, prompt = made("llama", "prompt")
    loaded = load(base)
    loaded, multi_adapter = open_multi_adapter(
        loaded, {"a": fit_delta(lora, loaded, None), "b": fit_delta(prompt, loaded, None)}, rows=4
    )
    tensors = [Tensor(a) for a in inputs(2)]
    with compilations() as count:
        outputs = [loaded.net(*tensors).asnumpy()]
        assert count.graphs == 1
        for slots in ([1, 2], [2, 0], [0], [1, 2]):
            multi_adapter.select(slots)
            outputs.append(loaded.net(*tensors).asnumpy())
        assert count.graphs == 1
        # A counter that cannot count would pass all of that.
        loaded.net(*[Tensor(a) for a in inputs(3)])
        assert count.graphs == 2
    np.testing.assert_array_equal(outputs[0], outputs[3])
    np.testing.assert_array_equal(outputs[1], outputs[4])
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3 and np.abs(outputs[1] - outputs[2]).max() > 1e-3


@pytest.mark.parametrize("algo", ["adapter", "lora+bitfit"])
def test_what_cannot_be_switched_says_what_can(pynative, made, tmp_path, algo):
    base, _ = made("gpt2", "ia3")
    path = make_delta(tmp_path / "it.ckpt", base, algo)
    loaded = load(base)
    with pytest.raises(ConfigError, match=rf"{algo.rpartition('+')[2]} cannot be switched") as caught:
        open_multi_adapter(loaded, {"it": fit_delta(read_delta(path), loaded, None)}, rows=2)
    assert "ptuning2" in caught.value.hint


def test_names_sizes_and_strangers(pynative, made, tmp_path):
    base, delta = made("llama", "lora")
    loaded = load(base)
    loaded, multi_adapter = open_multi_adapter(loaded, {"orders": fit_delta(delta, loaded, None)}, rows=2)
    with pytest.raises(ConfigError, match="no delta is called 'order'"):
        multi_adapter.index("order")
    with pytest.raises(ConfigError, match="3 rows, and the graph was built for 2"):
        multi_adapter.select([0, 1, 0])
    bert, _ = made("bert", "lora")
    prefix = make_delta(tmp_path / "prefix.ckpt", bert, "prefix", task="classify", tokens=2, middle=4)
    other = load(bert, "bert")
    with pytest.raises(ConfigError, match="in decoders only"):
        open_multi_adapter(other, {"p": fit_delta(read_delta(prefix), other, None)}, rows=2)
    wide = write_base(tmp_path / "wide", "llama", intermediate_size=40)
    big = read_delta(make_delta(tmp_path / "big.ckpt", wide, "lora", target=("up",)))
    narrow = load(base)
    with pytest.raises(DeltaError, match="does not fit this base: layers"):
        open_multi_adapter(narrow, {"big": big}, rows=2)


def test_windows_and_two_kinds_of_virtual_tokens(pynative, tmp_path):
    base = write_base(tmp_path / "mistral", "llama", model_type="mistral", sliding_window=4)
    prefix = read_delta(make_delta(tmp_path / "prefix.ckpt", base, "ptuning2", tokens=3))
    shorter = read_delta(make_delta(tmp_path / "short.ckpt", base, "ptuning2", tokens=1, seed=4))
    prompt = read_delta(make_delta(tmp_path / "prompt.ckpt", base, "prompt", tokens=2))
    loaded = load(base)
    with pytest.raises(ConfigError, match="has a window"):
        open_multi_adapter(loaded, {"a": prefix, "b": prompt}, rows=2)
    arrays = inputs(2)
    loaded, multi_adapter = open_multi_adapter(load(base), {"a": prefix, "b": shorter}, rows=2)
    multi_adapter.select([1, 2])
    together = loaded.net(*map(Tensor, arrays)).asnumpy()
    for i, delta in enumerate((prefix, shorter)):
        seen = arrays[1][i] > 0
        np.testing.assert_allclose(together[i][seen], alone(base, "llama", delta, arrays)[i][seen], atol=1e-5)
