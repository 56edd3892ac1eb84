"""What vLLM refuses of an adapter."""

import pytest

from petrun.errors import DeltaError
from petrun.interop.vllm import require_vllm

FIELDS = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none", "modules_to_save": None}
NAMES = ["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"]


@pytest.mark.parametrize("rank, needed", [(1, 1), (2, 8), (8, 8), (9, 16), (300, 320), (512, 512)])
def test_the_rank_of_the_server_is_the_next_that_it_knows(rank, needed):
    assert require_vllm({**FIELDS, "r": rank}, NAMES) == needed


def test_a_classifiers_head_is_loaded():
    assert require_vllm({**FIELDS, "modules_to_save": ["score"]}, [*NAMES, "base_model.model.score.weight"]) == 8


@pytest.mark.parametrize(
    "fields, names, words",
    [
        ({"peft_type": "IA3"}, NAMES, "this is IA3"),
        ({"use_dora": True}, NAMES, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, NAMES, "lm_head would stay untrained"),
        ({"bias": "all"}, NAMES, "no biases"),
        ({"rank_pattern": {"q_proj": 4}}, NAMES, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 4}}, NAMES, "alpha_pattern"),
        ({"trainable_token_indices": [7]}, NAMES, "trainable_token_indices"),
        ({"r": 600}, NAMES, "rank 600"),
        ({}, ["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"], "has no place for it"),
    ],
)
def test_what_it_does_not_compute_is_refused(fields, names, words):
    with pytest.raises(DeltaError) as raised:
        require_vllm({**FIELDS, **fields}, names)
    assert words in raised.value.message
