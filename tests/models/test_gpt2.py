"""GPT-2 against numpy and the oracle."""

from fnmatch import fnmatchcase

import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file

from petrun.models import gpt2
from petrun.models.factory import load_model
from tests.models import reference


def forward(net, *arrays):
    return net(*(Tensor(np.asarray(a, np.int32)) for a in arrays)).asnumpy()


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_equals_numpy(tmp_path, mode, left):
    tensors = reference.make(reference.GPT2)
    model = load_model(reference.write(tmp_path, reference.GPT2, tensors), task="lm")
    batch = reference.batch(left=left)
    got = forward(model.net, *batch)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, reference.gpt2(tensors, reference.GPT2, *batch), atol=5e-5)
    assert (model.max_positions, model.eos_token_ids, model.pad_token_id) == (20, (7,), 0)


@pytest.mark.parametrize(
    "change",
    [
        {"scale_attn_by_inverse_layer_idx": True, "n_inner": 20},
        {"scale_attn_weights": False, "activation_function": "relu"},
        {"tie_word_embeddings": False, "reorder_and_upcast_attn": True},
    ],
    ids=str,
)
def test_variants(tmp_path, pynative, change):
    config = {**reference.GPT2, **change}
    tensors = reference.make(config, seed=1)
    batch = reference.batch()
    got = forward(load_model(reference.write(tmp_path, config, tensors)).net, *batch)
    np.testing.assert_allclose(got, reference.gpt2(tensors, config, *batch), atol=5e-5)


def test_packed_rows_do_not_see_each_other(tmp_path, pynative):
    model = load_model(reference.write(tmp_path, reference.GPT2, reference.make(reference.GPT2)))
    ids, _, _ = reference.batch(lengths=(9,))
    packed = forward(model.net, ids, [[1] * 4 + [2] * 5], [[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    alone = forward(model.net, ids[:, 4:], [[1] * 5], [[0, 1, 2, 3, 4]])
    np.testing.assert_allclose(packed[:, 4:], alone, atol=1e-5)


def test_oracle(shared, mode):
    case = shared / "oracle/cases/gpt2"
    batch, out = load_file(case / "batch.safetensors"), load_file(case / "base_out.safetensors")
    seen = batch["attention_mask"]
    logits = forward(
        load_model(case / "base").net, batch["input_ids"], seen, np.broadcast_to(np.arange(seen.shape[1]), seen.shape)
    )
    np.testing.assert_allclose(logits[seen == 1], out["logits"][seen == 1], atol=1e-4)
    assert reference.causal_loss(logits, batch["labels"]) == pytest.approx(float(out["loss"][0]), abs=1e-4)


def test_tied_head_is_one_parameter():
    tied, untied = (gpt2.build(gpt2.parse({**reference.GPT2, "tie_word_embeddings": t})) for t in (True, False))
    assert tied.head.weight is tied.embed.weight
    assert next(p.name for p in tied.get_parameters()) == "embed.weight"
    assert {p.name for p in untied.get_parameters()} - {p.name for p in tied.get_parameters()} == {"head.weight"}


def test_dropouts():
    net = gpt2.build(gpt2.parse({**reference.GPT2, "resid_pdrop": 0.1, "embd_pdrop": 0.2, "attn_pdrop": 0.3}))
    found = sorted(cell.p for _, cell in net.cells_and_names() if getattr(cell, "p", 0) and hasattr(cell, "step"))
    assert found == [0.1] * 4 + [0.2] + [0.3] * 2


def test_sites(tmp_path):
    config = gpt2.parse(reference.GPT2)
    sites, net = gpt2.sites(config), gpt2.build(config)
    paths = {path for path, _ in net.cells_and_names()}
    for pattern in (*sites.linears.values(), sites.cores, *sites.sublayers):
        assert sum(fnmatchcase(p, pattern) for p in paths) == 2, pattern
    assert {sites.embedding, sites.head} <= paths
    assert sites.default_roles == ("qkv",)
    assert sites.hf_paths["layers.0.attn.qkv"] == "transformer.h.0.attn.c_attn"
    assert set(gpt2.names(config)) == {p.name for p in net.get_parameters()}
