"""BERT against numpy and the oracle, its heads, its dropout, its sites."""

import dataclasses
from fnmatch import fnmatchcase

import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file

from petrun.errors import ModelError
from petrun.models import bert
from petrun.models.factory import load_model
from tests.models import reference


def forward(net, *arrays):
    return net(*(Tensor(np.asarray(a, np.int32)) for a in arrays)).asnumpy()


@pytest.fixture(scope="module")
def tensors():
    return reference.make(reference.BERT)


@pytest.fixture(scope="module")
def base(tmp_path_factory, tensors):
    return reference.write(tmp_path_factory.mktemp("bert") / "base", reference.BERT, tensors)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_equals_numpy(base, tensors, mode, left):
    ids, segments, _ = reference.batch(left=left)
    types = (np.arange(ids.shape[1]) > 4).astype(np.int32)[None].repeat(3, 0)
    got = forward(load_model(base).net, ids, segments, types)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, reference.bert(tensors, reference.BERT, ids, segments, types), atol=2e-5)


@pytest.mark.parametrize("act", ["relu", "gelu_new", "quick_gelu", "silu"])
def test_activations(tmp_path, tensors, pynative, act):
    config = {**reference.BERT, "hidden_act": act}
    ids, segments, _ = reference.batch()
    got = forward(load_model(reference.write(tmp_path, config, tensors)).net, ids, segments, ids * 0)
    np.testing.assert_allclose(got, reference.bert(tensors, config, ids, segments, ids * 0), atol=2e-5)


def test_oracle(shared, mode):
    case = shared / "oracle/cases/bert"
    batch, out = load_file(case / "batch.safetensors"), load_file(case / "base_out.safetensors")
    logits = forward(load_model(case / "base").net, batch["input_ids"], batch["attention_mask"], batch["input_ids"] * 0)
    np.testing.assert_allclose(logits, out["logits"], atol=1e-4)
    wide = logits.astype(np.float64)
    chosen = wide[np.arange(len(wide)), batch["labels"]] - np.log(np.exp(wide).sum(-1))
    assert -chosen.mean() == pytest.approx(float(out["loss"][0]), abs=1e-4)


def test_own_head_is_kept(base, tensors):
    model = load_model(base)
    assert (model.num_labels, model.labels, model.fresh) == (3, ("bad", "fair", "good"), ())
    assert (model.inputs, model.max_positions, model.pad_token_id) == (bert.FAMILY.inputs, 20, 0)
    same = load_model(base, num_labels=3, task="classify")
    np.testing.assert_array_equal(same.net.classifier.weight.asnumpy(), tensors["classifier.weight"])


def test_head_of_another_size_needs_the_users_word(base):
    with pytest.raises(ModelError, match="head has 3 classes, the data 2") as caught:
        load_model(base, num_labels=2)
    assert "model.fresh_head=true" in caught.value.hint
    model = load_model(base, num_labels=2, fresh_head=True)
    assert model.fresh == ("classifier.weight", "classifier.bias")
    assert (model.num_labels, model.labels) == (2, ())
    assert model.net.classifier.weight.shape == (2, 16)


def test_fresh_head_hangs_on_the_seed_alone(base):
    first, again, other = (load_model(base, num_labels=4, fresh_head=True, seed=s) for s in (1, 1, 2))
    value = first.net.classifier.weight.asnumpy()
    np.testing.assert_array_equal(value, again.net.classifier.weight.asnumpy())
    assert np.abs(value - other.net.classifier.weight.asnumpy()).max() > 1e-3
    assert 0.01 < value.std() < 0.03
    assert not first.net.classifier.bias.asnumpy().any()


def test_base_without_head_or_pooler(tmp_path):
    bare = {n.removeprefix("bert."): a for n, a in reference.make(reference.BERT, classes=0, pooler=False).items()}
    folder = reference.write(tmp_path, reference.BERT, bare)
    with pytest.raises(ModelError, match="no classification head"):
        load_model(folder)
    model = load_model(folder, num_labels=2)
    assert set(model.fresh) == {"pooler.weight", "pooler.bias", "classifier.weight", "classifier.bias"}
    assert set(model.sites.trained_heads) == {"classifier.*", "pooler.*"}


def test_heads_of_other_tasks(tmp_path, tensors):
    without = {n: a for n, a in tensors.items() if "pooler" not in n}
    with pytest.raises(ModelError, match="trained for another task") as caught:
        load_model(reference.write(tmp_path / "tokens", reference.BERT, without))
    assert "fresh_head" in caught.value.hint
    one = {**tensors, "classifier.weight": tensors["classifier.weight"][:1], "classifier.bias": np.zeros(1, np.float32)}
    with pytest.raises(ModelError, match="one output, and config"):
        load_model(reference.write(tmp_path / "one", reference.BERT, one))
    # transformers: one output is for regression, where the class is BertForSequenceClassification or problem_type says so.
    for said in ({"problem_type": "regression"}, {"architectures": ["BertForSequenceClassification"]}):
        folder = reference.write(tmp_path / next(iter(said)), {**reference.BERT, **said}, one)
        model = load_model(folder)
        assert (model.num_labels, model.fresh) == (1, ())
        np.testing.assert_array_equal(model.net.classifier.weight.asnumpy(), one["classifier.weight"])
        with pytest.raises(ModelError, match="one output, for numbers, the data 3 classes"):
            load_model(folder, num_labels=3)
    pretrained = {n: a for n, a in tensors.items() if "classifier" not in n}
    pretrained |= {
        "cls.predictions.bias": np.zeros(50, np.float32),
        "cls.seq_relationship.weight": np.zeros((2, 16), np.float32),
    }
    pretrained["bert.embeddings.position_ids"] = np.arange(20)[None]
    model = load_model(reference.write(tmp_path / "pretrained", reference.BERT, pretrained), num_labels=2)
    assert set(model.fresh) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_heads_with_another_loss(tmp_path, tensors, problem):
    folder = reference.write(tmp_path, {**reference.BERT, "problem_type": problem}, tensors)
    with pytest.raises(ModelError, match=f'problem_type = "{problem}" of config.json is not supported') as caught:
        load_model(folder)
    assert "fresh_head" in caught.value.hint
    assert load_model(folder, num_labels=3, fresh_head=True).labels == ()


def test_old_layer_norm_names(tmp_path, tensors):
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): a
        for n, a in tensors.items()
    }
    assert old.keys() != tensors.keys()
    model = load_model(reference.write(tmp_path / "old", reference.BERT, old))
    assert model.base_digest == load_model(reference.write(tmp_path / "new", reference.BERT, tensors)).base_digest
    np.testing.assert_array_equal(
        model.net.layers[1].mlp_norm.weight.asnumpy(), tensors["bert.encoder.layer.1.output.LayerNorm.weight"]
    )


def test_dropout_only_while_training(tmp_path, tensors, pynative):
    config = {**reference.BERT, "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1}
    folder = reference.write(tmp_path, config, tensors)
    ids, segments, _ = reference.batch()
    first, again, other = (load_model(folder, seed=s).net for s in (3, 3, 4))
    calm = forward(first, ids, segments, ids * 0)
    np.testing.assert_allclose(calm, reference.bert(tensors, config, ids, segments, ids * 0), atol=2e-5)
    noisy = []
    for net in (first, again, other):
        net.set_train(True)
        noisy.append(forward(net, ids, segments, ids * 0))
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert np.abs(noisy[0] - calm).max() > 1e-3
    assert np.abs(noisy[0] - noisy[2]).max() > 1e-3


@pytest.mark.parametrize(
    ("field", "places"), [("hidden_dropout_prob", 6), ("attention_probs_dropout_prob", 2), ("classifier_dropout", 1)]
)
def test_each_dropout_comes_from_its_field(field, places):
    """classifier_dropout falls back on hidden_dropout_prob, which is why the latter has one place more."""
    config = bert.parse({**reference.BERT, field: 0.25})
    net = bert.build(config)
    found = [cell.p for _, cell in net.cells_and_names() if getattr(cell, "p", 0) == 0.25]
    assert len(found) == places


def test_float16(tmp_path, tensors, pynative):
    ids, segments, _ = reference.batch()
    model = load_model(reference.write(tmp_path, reference.BERT, tensors), compute_dtype="float16")
    kinds = {p.name: str(p.dtype) for p in model.net.get_parameters()}
    assert kinds["layers.0.attn.q.weight"] == kinds["embeddings.word.weight"] == "Float16"
    assert kinds["layers.0.attn_norm.weight"] == kinds["classifier.weight"] == "Float32"
    got = forward(model.net, ids, segments, ids * 0)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, reference.bert(tensors, reference.BERT, ids, segments, ids * 0), atol=3e-2)


def test_sites_name_cells_and_parameters_that_exist(base):
    model = load_model(base)
    paths = {path for path, _ in model.net.cells_and_names()}
    for pattern in (*model.sites.linears.values(), model.sites.cores, *model.sites.sublayers):
        assert sum(fnmatchcase(p, pattern) for p in paths) == 2, pattern
    assert {model.sites.embedding, model.sites.head} <= paths
    assert set(model.sites.default_roles) <= set(model.sites.linears)
    assert model.sites.hf_paths["layers.1.attn.q"] == "bert.encoder.layer.1.attention.self.query"
    assert set(model.names) == {p.name for p in model.net.get_parameters()}
    numbers = dataclasses.asdict(model.sites)
    assert [numbers[k] for k in ("hidden", "heads", "kv_heads", "head_dim", "layers")] == [16, 4, 4, 4, 2]
