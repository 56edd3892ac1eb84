"""GLM-4 against transformers."""

import pytest

from petrun.errors import ModelError
from petrun.models import glm
from tests.models.agreement import check_cache, check_greedy, check_logits, check_packing, check_sites, load
from tests.models.transformers_cases import GLM

NAMES = ("glm", "glm-quarter", "glm4")


@pytest.mark.parametrize("name", NAMES)
def test_equals_transformers(tmp_path, pynative, name):
    model = load(tmp_path, name, task="lm")
    check_logits(model, name)
    check_cache(model)
    check_packing(model)
    assert (model.max_positions, model.eos_token_ids, model.pad_token_id) == (64, (1, 2), 0)


@pytest.mark.parametrize("name", ["glm4", *(pytest.param(n, marks=pytest.mark.all_only) for n in NAMES[:2])])
def test_equals_transformers_compiled(tmp_path, name):
    model = load(tmp_path, name)
    check_logits(model, name)
    check_greedy(model, name)


@pytest.mark.parametrize("name", NAMES)
def test_sites(name):
    sites = check_sites(name)
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
