"""OPT against transformers: test_agreement.py holds its numbers, this file what it has of its own."""

import pytest

from petrun.errors import ModelError
from petrun.models import opt
from tests.models.agreement import check_sites
from tests.models.transformers_cases import OPT


@pytest.mark.parametrize("name", ["opt", "opt-350m"])
def test_sites(name):
    sites = check_sites(name)
    assert sites.hf_paths["layers.1.mlp.down"] == "model.decoder.layers.1.fc2"
    assert sites.hidden == (12 if name == "opt-350m" else 16), "a prompt stands among the embedded tokens"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine = false is not supported for opt"),
        ({"layerdrop": 0.1}, "layerdrop = 0.1 is not supported for opt"),
        ({"num_attention_heads": 3}, "hidden_size = 16: must be a multiple of num_attention_heads = 3"),
    ],
)
def test_a_field_that_is_not_supported_is_named(change, named):
    with pytest.raises(ModelError, match=named):
        opt.parse({**OPT, **change})


def test_more_tokens_than_positions():
    net = opt.build(opt.parse(OPT))
    net.check_slots(20)
    with pytest.raises(ModelError, match="need 21 positions, the model has max_position_embeddings = 20"):
        net.check_slots(21)
