"""Gemma, Gemma 2 and Gemma 3: test_agreement.py holds their numbers, this file what they have of their own."""

import numpy as np
import pytest

from petrun.delta.prompt import PromptConfig, attach
from petrun.errors import ModelError
from petrun.models import gemma
from tests.models.agreement import CONFIGS, check_sites, load
from tests.models.transformers_cases import GEMMA2, GEMMA3


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text"])
def test_sites(name):
    sites = check_sites(name)
    assert sites.hf_paths["layers.1.attn_post_norm"] == "model.layers.1.post_attention_layernorm"
    assert sites.hf_paths["layers.1.mlp_norm"] == "model.layers.1.pre_feedforward_layernorm"
    assert set(sites.linears) == {"q", "k", "v", "o", "gate", "up", "down"}


def test_layers_with_a_window():
    """Gemma 2: each second layer sees all; Gemma 3: each sixth, and its layers with a window rotate by another base."""
    assert gemma.parse({**GEMMA2, "num_hidden_layers": 4}).windows == (4, 0, 4, 0)
    without = {key: value for key, value in GEMMA3.items() if key != "sliding_window_pattern"}
    assert gemma.parse({**without, "num_hidden_layers": 7}).windows == (4, 4, 4, 4, 4, 0, 4)
    config = gemma.parse(GEMMA3)
    assert config.near_rope is not None and (config.near_rope.theta, config.near_rope.kind) == (100.0, "default")
    assert (config.rope.theta, config.rope.kind, config.rope.factor) == (500.0, "linear", 4.0)
    assert gemma.parse(CONFIGS["gemma"]).windows == (0, 0)


def test_a_prompt_begins_as_the_embedded_tokens(tmp_path):
    """transformers' embedding gives rows times the root of their width."""
    model = load(tmp_path, "gemma2")
    rows = model.net.embed.weight.asnumpy()[[5, 7]] * 4.0
    (name,) = attach(model.net, PromptConfig(tokens=2, init_ids=(5, 7)), model.sites, 0)
    table = {p.name: p for p in model.net.get_parameters()}[name].asnumpy()
    np.testing.assert_allclose(table, rows, rtol=1e-6)


def test_original_positions_stand_in_the_rotation_of_a_kind_of_layers():
    """transformers does not read those beside rope_parameters, where these are of two kinds."""
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    config = gemma.parse({**GEMMA3, "rope_scaling": scaling, "original_max_position_embeddings": 8})
    assert config.rope.original_positions == 16


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({**GEMMA2, "use_bidirectional_attention": True}, "use_bidirectional_attention = true is not supported for gemma2"),
        ({**GEMMA2, "layer_types": ["full_attention"]}, "layer_types .* is not supported for gemma2"),
        ({**GEMMA2, "sliding_window": None}, "sliding_window = null is not supported for gemma2"),
        ({**GEMMA2, "attn_logit_softcapping": -1.0}, "attn_logit_softcapping = -1.0: must be"),
        ({**GEMMA3, "attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0 is not supported for gemma3_text"),
        ({**GEMMA3, "rope_parameters": {"rope_type": "default"}}, "rope_parameters = .* is not supported for gemma3_text"),
        ({**GEMMA3, "rope_scaling": {"rope_type": "longer"}}, 'rope_type = "longer" is not supported for gemma3_text'),
        ({**CONFIGS["gemma"], "final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0 is not supported for gemma"),
    ],
)  # fmt: skip
def test_a_field_that_is_not_supported_is_named(config, named):
    with pytest.raises(ModelError, match=named):
        gemma.parse(config)
