"""Encoders that classify tokens, against transformers' ForTokenClassification classes (transformers_cases.py)."""

import numpy as np
import pytest

from petrun.errors import ModelError
from petrun.models.factory import load_model
from tests.models.agreement import CONFIGS, check_sites, forward, load, stored, tensors
from tests.models.reference import write
from tests.models.transformers_cases import TAGGED, batch, last_two


@pytest.mark.parametrize("name", TAGGED)
def test_equals_transformers(tmp_path, mode, name):
    model = load(tmp_path, name)
    assert (model.tasks, model.labels, model.fresh) == (("tokens",), ("bad", "fair", "good"), ())
    ids, segments, positions = batch(left=False)
    third = positions if "position_ids" in model.inputs else np.zeros_like(ids)
    got = forward(model.net, (np.where(segments == 1, ids, CONFIGS[name]["pad_token_id"]), segments, third))
    np.testing.assert_allclose(last_two(got, left=False), np.array(stored(name)["logits"]), atol=1e-4)


@pytest.mark.parametrize("name", TAGGED)
def test_sites(name):
    assert check_sites(name).trained_heads == ("classifier.*",)


@pytest.mark.parametrize("name", ["bert-tags", "roberta-tags"])
def test_a_head_of_rows_is_none_of_tokens(tmp_path, pynative, name):
    config = CONFIGS[name]
    rows = {**config, "architectures": [config["architectures"][0].replace("Token", "Sequence")]}
    folder = write(tmp_path / "rows", rows, tensors(rows))
    if name == "bert-tags":
        with pytest.raises(ModelError, match="does not say that it is of tokens"):
            load_model(folder, task="tokens", num_labels=3)
    model = load_model(folder, task="tokens", num_labels=3, fresh_head=True)
    assert set(model.fresh) == {"classifier.weight", "classifier.bias"}
    tagged = write(tmp_path / "tagged", config, tensors(config))
    model = load_model(tagged, task="classify", num_labels=3, fresh_head=True)
    assert set(model.fresh) == {f"{cell}.{kind}" for cell in ("pooler", "classifier") for kind in ("weight", "bias")}
