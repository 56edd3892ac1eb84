"""Phi-3: test_agreement.py holds its numbers, this file what it has of its own."""

import pytest

from petrun.errors import ModelError
from petrun.models import phi3
from tests.models.agreement import CONFIGS, check_sites
from tests.models.transformers_cases import LONG_ROPE, PHI3


def test_sites():
    sites = check_sites("phi3")
    assert sites.hf_paths["layers.1.attn.qkv"] == "model.layers.1.self_attn.qkv_proj"
    assert set(sites.linears) == {"qkv", "o", "gate_up", "down"} and sites.default_roles == ("qkv",)


def test_a_cache_is_refused_where_a_longer_row_has_other_keys():
    net = phi3.FAMILY.build(phi3.parse(CONFIGS["phi3-long"]))
    net.check_slots(8)
    with pytest.raises(
        ModelError, match="longrope changes the keys of earlier tokens beyond original_max_position_embeddings = 8"
    ):
        net.check_slots(9)


@pytest.mark.parametrize("kind", ["su", "yarn"])
def test_old_names_of_longrope(kind):
    assert phi3.parse({**PHI3, "rope_scaling": {**LONG_ROPE, "type": kind}}).rope.kind == "longrope"


def test_as_transformers_5_saves_it():
    """The original positions then stand in rope_parameters as well; where the two differ, the outer ones count."""
    old = CONFIGS["phi3-long"]
    parameters = {**LONG_ROPE, "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    new = {**old, "rope_scaling": None, "rope_parameters": {**parameters, "original_max_position_embeddings": 8}}
    assert phi3.parse(new) == phi3.parse(old)
    new["rope_parameters"]["original_max_position_embeddings"] = 6
    assert phi3.parse(new) == phi3.parse(old)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 'rope_scaling.rope_type = "linear" is not supported for phi3'),
        ({"rope_scaling": {**LONG_ROPE, "long_factor": [1.0]}}, r"rope_scaling.long_factor = \[1.0\]: must be a list of 2 numbers above 0"),
        ({"rope_scaling": {"type": "su", "short_factor": [1, 1]}}, "rope_scaling.long_factor is missing for rope_type = longrope"),
        ({"original_max_position_embeddings": "8"}, 'original_max_position_embeddings = "8": must be an integer of at least 1'),
        ({"resid_pdrop": 0.1}, "resid_pdrop = 0.1 is not supported for phi3"),
        ({"num_key_value_heads": 3}, "num_key_value_heads = 3: must be a divisor of num_attention_heads = 4"),
    ],
)  # fmt: skip
def test_a_field_that_is_not_supported_is_named(change, named):
    with pytest.raises(ModelError, match=named):
        phi3.parse({**PHI3, **change})
