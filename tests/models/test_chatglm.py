"""ChatGLM2 and 3: test_agreement.py holds their numbers, this file what they have of their own."""

import pytest

from petrun.errors import ModelError
from petrun.models import chatglm
from tests.models.agreement import CHATGLM, check_sites


def test_sites():
    sites = check_sites("chatglm")
    assert sites.hf_paths["layers.1.attn.qkv"] == "transformer.encoder.layers.1.self_attention.query_key_value"
    assert set(sites.linears) == {"qkv", "o", "gate_up", "down"} and sites.default_roles == ("qkv",)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"multi_query_attention": False}, "multi_query_attention = false is not supported for chatglm"),
        ({"rmsnorm": False}, "rmsnorm = false is not supported for chatglm"),
        ({"quantization_bit": 4}, "quantization_bit = 4 is not supported for chatglm"),
        ({"rope_ratio": 50}, "rope_ratio = 50 is not supported for chatglm"),
        ({"kv_channels": 6}, "kv_channels = 6: must be a multiple of 4"),
        ({"multi_query_group_num": 3}, "multi_query_group_num = 3: must be a divisor of num_attention_heads = 4"),
        ({"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm = true is not"),
    ],
)
def test_a_field_that_is_not_supported_is_named(change, named):
    with pytest.raises(ModelError, match=named):
        chatglm.parse({**CHATGLM, **change})
