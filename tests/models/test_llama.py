"""Llama, Mistral, Qwen2 and Qwen3 against numpy and the oracle."""

from fnmatch import fnmatchcase

import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file

from petrun.models import llama
from petrun.models.factory import load_model
from tests.models import reference

# name -> (config, window of each layer)
CASES = {
    "llama": ({}, (0, 0)),
    "llama-biases-tied": (
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 6, "hidden_act": "relu"},
        (0, 0),
    ),
    "llama-no-grouping": ({"num_key_value_heads": 4, "rope_theta": 500000.0}, (0, 0)),
    "mistral": ({"model_type": "mistral", "sliding_window": 3}, (3, 3)),
    "mistral-no-window": ({"model_type": "mistral", "sliding_window": None}, (0, 0)),
    "qwen2": ({"model_type": "qwen2", "tie_word_embeddings": True}, (0, 0)),
    "qwen2-window": (
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
        (0, 4),
    ),
    "qwen3": ({"model_type": "qwen3", "head_dim": 8, "num_key_value_heads": 1}, (0, 0)),
    "qwen3-window": (
        {
            "model_type": "qwen3",
            "head_dim": 4,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 2,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        (2, 0),
    ),
}
GRAPH_CASES = ("llama-biases-tied", "qwen3-window")


def forward(net, *arrays):
    return net(*(Tensor(np.asarray(a, np.int32)) for a in arrays)).asnumpy()


def agree(folder, name, left):
    change, windows = CASES[name]
    config = {**reference.LLAMA, **change}
    tensors = reference.make(config, seed=2)
    model = load_model(reference.write(folder, config, tensors), task="instruct")
    batch = reference.batch(left=left)
    got = forward(model.net, *batch)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, reference.llama(tensors, config, *batch, windows), atol=5e-5)
    assert (model.family, model.model_type) == ("llama", config["model_type"])
    return model


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("name", CASES)
def test_equals_numpy(tmp_path, pynative, name, left):
    agree(tmp_path, name, left)


@pytest.mark.parametrize("name", GRAPH_CASES)
def test_equals_numpy_compiled(tmp_path, name):
    agree(tmp_path, name, True)


def test_padding_changes_nothing(tmp_path, pynative):
    """A row alone, and the same row padded on either side, in a batch."""
    model = agree(tmp_path, "mistral", False)
    ids, segments, positions = reference.batch(lengths=(9, 4), left=True)
    alone = forward(model.net, ids[1:, 5:], segments[1:, 5:], positions[1:, 5:])
    np.testing.assert_allclose(forward(model.net, ids, segments, positions)[1:, 5:], alone, atol=1e-5)


def test_packed_rows_do_not_see_each_other(tmp_path, pynative):
    model = agree(tmp_path, "qwen2-window", False)
    ids, _, _ = reference.batch(lengths=(9,))
    packed = forward(model.net, ids, [[1] * 4 + [2] * 5], [[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    alone = forward(model.net, ids[:, 4:], [[1] * 5], [[0, 1, 2, 3, 4]])
    np.testing.assert_allclose(packed[:, 4:], alone, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_oracle(shared, mode, family):
    case = shared / "oracle/cases" / family
    batch, out = load_file(case / "batch.safetensors"), load_file(case / "base_out.safetensors")
    seen = batch["attention_mask"]
    logits = forward(
        load_model(case / "base").net, batch["input_ids"], seen, np.broadcast_to(np.arange(seen.shape[1]), seen.shape)
    )
    np.testing.assert_allclose(logits[seen == 1], out["logits"][seen == 1], atol=1e-4)
    assert reference.causal_loss(logits, batch["labels"]) == pytest.approx(float(out["loss"][0]), abs=1e-4)


def test_float16(tmp_path, pynative):
    config = {**reference.LLAMA, "model_type": "qwen3", "head_dim": 4}
    tensors = reference.make(config, seed=2)
    model = load_model(reference.write(tmp_path, config, tensors), compute_dtype="float16")
    kinds = {p.name: str(p.dtype) for p in model.net.get_parameters()}
    assert {k for n, k in kinds.items() if "norm" in n} == {"Float32"}
    assert {k for n, k in kinds.items() if "norm" not in n} == {"Float16"}
    batch = reference.batch()
    got = forward(model.net, *batch)
    assert got.dtype == np.float32
    wanted = reference.llama(tensors, config, *batch)
    assert 1e-5 < np.abs(got - wanted).max() < 0.1


@pytest.mark.parametrize("name", CASES)
def test_sites_and_names(name):
    config = llama.parse({**reference.LLAMA, **CASES[name][0]})
    sites, net = llama.FAMILY.sites(config), llama.FAMILY.build(config)
    paths = {path for path, _ in net.cells_and_names()}
    for pattern in (*sites.linears.values(), sites.cores, *sites.sublayers):
        assert sum(fnmatchcase(p, pattern) for p in paths) == 2, pattern
    assert {sites.embedding, sites.head} <= paths
    assert set(sites.linears) == {"q", "k", "v", "o", "gate", "up", "down"}
    assert sites.hf_paths["layers.1.mlp.down"] == "model.layers.1.mlp.down_proj"
    assert set(llama.FAMILY.names(config)) == {p.name for p in net.get_parameters()}
    assert (sites.heads, sites.kv_heads, sites.head_dim) == (config.heads, config.kv_heads, config.head_dim)
