"""Qwen3's mixture of experts: test_agreement.py holds its numbers, this file what it has of its own."""

import pytest

from petrun.errors import ModelError
from petrun.models import qwen3_moe
from tests.models.agreement import check_sites
from tests.models.transformers_cases import QWEN3_MOE


def test_sites():
    sites = check_sites("qwen3_moe")
    assert set(sites.linears) == {"q", "k", "v", "o", "gate", "up", "down"}
    assert sites.hf_paths["layers.1.mlp.gate"] == "model.layers.1.mlp.gate_proj"
    everywhere = qwen3_moe.FAMILY.sites(qwen3_moe.parse({**QWEN3_MOE, "mlp_only_layers": []}))
    assert set(everywhere.linears) == {"q", "k", "v", "o"} and everywhere.sublayers == ("layers.*.attn.o",)


@pytest.mark.parametrize(
    ("fields", "plain"),
    [
        ({"mlp_only_layers": None}, ()),
        ({"mlp_only_layers": [0, 2, 9]}, (0, 2)),
        ({"mlp_only_layers": [], "decoder_sparse_step": 2}, (0, 2)),
        ({"mlp_only_layers": [1], "decoder_sparse_step": 2}, (0, 1, 2)),
    ],
)
def test_layers_without_experts(fields, plain):
    config = qwen3_moe.parse({**QWEN3_MOE, **fields})
    assert config.plain_layers == plain
    assert [config.has_experts(i) for i in range(3)] == [i not in plain for i in range(3)]


def test_both_names_of_the_number_of_experts():
    other = {key: value for key, value in QWEN3_MOE.items() if key != "num_experts"}
    assert qwen3_moe.parse({**other, "num_local_experts": 5}).experts == 5
    assert qwen3_moe.parse(other).experts == 128


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mlp_only_layers": "1"}, r'mlp_only_layers = "1": must be a list of layers'),
        ({"output_router_logits": True}, "output_router_logits = true is not supported for qwen3_moe"),
        ({"num_key_value_heads": 3}, "num_key_value_heads = 3: must be a divisor of num_attention_heads = 4"),
    ],
)
def test_a_field_that_is_not_supported_is_named(change, named):
    with pytest.raises(ModelError, match=named):
        qwen3_moe.parse({**QWEN3_MOE, **change})
