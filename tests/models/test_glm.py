"""GLM-4 against transformers: test_agreement.py holds its numbers, this file what it has of its own."""

import pytest

from petrun.errors import ModelError
from petrun.models import glm
from tests.models.agreement import check_sites
from tests.models.transformers_cases import GLM


def test_sites():
    sites = check_sites("glm4")
    assert sites.hf_paths["layers.1.mlp.gate_up"] == "model.layers.1.mlp.gate_up_proj"
    assert set(sites.linears) == {"q", "k", "v", "o", "gate_up", "down"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor = 1.5: must be a number above 0, at most 1"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, 'rope_scaling.rope_type = "yarn" is not supported for glm'),
        ({"num_key_value_heads": 3}, "num_key_value_heads = 3: must be a divisor of num_attention_heads = 4"),
        ({"hidden_act": "gelu_10"}, 'hidden_act = "gelu_10" is not supported for glm'),
    ],
)
def test_a_field_that_is_not_supported_is_named(change, named):
    with pytest.raises(ModelError, match=named):
        glm.parse({**GLM, **change})
