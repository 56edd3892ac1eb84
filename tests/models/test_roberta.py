"""RoBERTa and XLM-RoBERTa against transformers."""

import numpy as np
import pytest

from petrun.errors import ModelError
from petrun.models import roberta
from petrun.models.factory import load_model
from tests.models.agreement import check_classes, check_sites, load, tensors
from tests.models.reference import write
from tests.models.transformers_cases import CLASSIFIERS, ROBERTA


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_equals_transformers(tmp_path, mode, name):
    model = load(tmp_path, name, task="classify")
    check_classes(model, name)
    assert (model.max_positions, model.num_labels, model.labels, model.fresh) == (18, 3, ("bad", "fair", "good"), ())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_sites(name):
    sites = check_sites(name)
    assert sites.hf_paths["layers.1.mlp.down"] == "roberta.encoder.layer.1.output.dense"
    assert sites.trained_heads == ("pooler.*", "classifier.*")


def test_a_base_without_a_head(tmp_path, pynative):
    """As RobertaModel saves it, with the pooler that its head does not read: both layers of the head are new."""
    found = tensors(ROBERTA, classes=0)
    found["roberta.pooler.dense.weight"] = np.ones((16, 16), np.float32)
    found["lm_head.bias"] = np.ones(24, np.float32)
    bare = {name.removeprefix("roberta."): value for name, value in found.items()}
    model = load_model(write(tmp_path, ROBERTA, bare), num_labels=2)
    assert model.fresh == ("pooler.weight", "classifier.weight", "pooler.bias", "classifier.bias")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"position_embedding_type": "relative_key"},
            'position_embedding_type = "relative_key" is not supported for roberta',
        ),
        ({"is_decoder": True}, "is_decoder = true is not supported for roberta"),
        ({"max_position_embeddings": 2}, "max_position_embeddings = 2: must be an integer of at least 3"),
    ],
)
def test_a_field_that_is_not_supported_is_named(change, named):
    with pytest.raises(ModelError, match=named):
        roberta.parse({**ROBERTA, **change})
