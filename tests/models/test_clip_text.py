"""CLIP's text encoder against transformers' numbers (diffusers_cases.py), its size in Stable Diffusion 1.x, and refused configs."""

import json
from math import prod

import numpy as np
import pytest
from mindspore import Tensor

from petrun.errors import ModelError
from petrun.models import clip_text
from petrun.models.pipeline import load_part
from tests.models.diffusers_cases import STORED, TEXT, TEXTS, text_ids
from tests.models.pipelines import tensors, write_part

FAMILY = clip_text.FAMILY
FOUND = json.loads(STORED.read_text())["cases"]


def check(net, name):
    states = net(Tensor(text_ids())).asnumpy()
    assert states.shape == (2, 9, 12)
    np.testing.assert_allclose(states.ravel(), FOUND[name]["states"], atol=1e-4)


@pytest.mark.parametrize("name", TEXTS)
def test_equals_transformers(tmp_path, pynative, name):
    check(load_part(write_part(tmp_path, FAMILY, TEXTS[name]), FAMILY).net, name)


def test_equals_transformers_compiled_without_the_prefix_of_the_names(tmp_path):
    """Given files as transformers 5 or earlier ones write them, with or without text_model and position_ids."""
    held = {name.removeprefix("text_model."): value for name, value in tensors(FAMILY, TEXT).items()}
    held["embeddings.position_ids"] = np.arange(9).reshape(1, 9)
    check(load_part(write_part(tmp_path, FAMILY, TEXT, held), FAMILY).net, "quick")


def test_stable_diffusion_1_has_the_published_size():
    sd1 = {
        **TEXT, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12, "vocab_size": 49408,
        "max_position_embeddings": 77,
    }  # fmt: skip
    net = clip_text.build(clip_text.parse(sd1))
    assert sum(prod(p.shape) for p in net.get_parameters()) == 123_060_480


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "geluu"}, 'hidden_act = "geluu" is not supported for clip_text'),
        ({"attention_dropout": 0.1}, "attention_dropout = 0.1 is not supported"),
        ({"num_attention_heads": 5}, "num_attention_heads = 5: must be a divisor of hidden_size = 12"),
        ({"vocab_size": None}, "vocab_size is missing"),
    ],
)
def test_refused_configs(change, message):
    with pytest.raises(ModelError, match=message):
        clip_text.parse({**TEXT, **change})
