"""Every decoder's net against transformers' numbers (transformers_cases.py), and the models of ChatGLM against those of the same glm."""

import pytest

from tests.models.agreement import (
    CONFIGS,
    SAME_NUMBERS,
    check_cache,
    check_greedy,
    check_logits,
    check_packing,
    check_sites,
    load,
)
from tests.models.transformers_cases import CASES

DECODERS = [*CASES, *SAME_NUMBERS]
# Of each net one, with what the others lack.
COMPILED = ("opt-350m", "chatglm", "mixtral")
LIMITS = {
    "opt": (20, (2,), 1), "bloom": (None, (2,), 3), "glm": (64, (1, 2), 0), "glm4": (64, (1, 2), 0), "chatglm": (64, (1, 2), 0),
    "mixtral": (64, (2,), 0), "qwen3_moe": (64, (1, 2), 0),
    "phi3": (20, (2,), 0), "gemma": (64, (1,), 0), "gemma2": (64, (1,), 0), "gemma3_text": (64, (1,), 0),
}  # fmt: skip
"""model_type -> positions, ends and padding of its cases."""
GROWS_OTHERWISE = {"phi3-long"}
"""Rows whose keys change while they grow: they have no cache, which is refused."""


@pytest.mark.parametrize("name", DECODERS)
def test_equals_transformers(tmp_path, pynative, name):
    model = load(tmp_path, name, task="lm")
    check_logits(model, name)
    if name not in GROWS_OTHERWISE:
        check_cache(model)
        check_packing(model)
    limits = (model.max_positions, model.eos_token_ids, model.pad_token_id)
    assert limits == LIMITS[CONFIGS[name]["model_type"]]


@pytest.mark.parametrize(
    "name",
    [
        name if name in COMPILED else pytest.param(name, marks=pytest.mark.all_only)
        for name in DECODERS
        if name not in GROWS_OTHERWISE
    ],
)
def test_equals_transformers_compiled(tmp_path, name):
    model = load(tmp_path, name)
    check_logits(model, name)
    check_greedy(model, name)


@pytest.mark.parametrize("name", DECODERS)
def test_sites(name):
    check_sites(name)
