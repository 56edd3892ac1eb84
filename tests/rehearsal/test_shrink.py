"""A base that is shrunk: what a layout depends on stays."""

import numpy as np
import pytest

from petrun.errors import ConfigError
from petrun.models import bloom, phi3
from petrun.models.factory import load_model, outline_model
from petrun.parallel.layout import Layout
from petrun.rehearsal.shrink import is_shrunk, parse_shrink, shrunk_config, write_random_weights, write_shrunk
from tests.models.transformers_cases import BLOOM, CASES
from tests.tiny import CLASSIFIERS, CONFIGS

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 11008, "vocab_size": 32000, "eos_token_id": [128001, 2], "pad_token_id": None, "head_dim": 128,
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2",
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_positions": 1024,
    "vocab_size": 50257,
    "n_inner": None,
}


def test_heads_stay_and_tp_divides_what_it_divided():
    small = shrunk_config(LLAMA, 2, 64, Layout(dp=2, tp=4))
    assert (small["num_hidden_layers"], small["hidden_size"], small["head_dim"]) == (2, 64, 2)
    assert (small["num_attention_heads"], small["num_key_value_heads"]) == (32, 8)
    assert small["intermediate_size"] % 4 == small["vocab_size"] % 4 == 0 and small["vocab_size"] <= 128
    assert max(small["eos_token_id"]) < small["vocab_size"] and small["pad_token_id"] is None
    assert LLAMA["hidden_size"] == 4096


def test_a_vocabulary_that_tp_does_not_divide_stays_so():
    small = shrunk_config(GPT2, 2, 48, Layout(tp=2))
    assert small["vocab_size"] % 2 == 1 and small["n_embd"] == 48 and small["n_layer"] == 2


@pytest.mark.parametrize(("name", "divisors"), [("phi3-long", 4), ("phi4-mini", 2)])
def test_longrope_has_a_divisor_for_each_frequency_that_stays(name, divisors):
    small = shrunk_config(CASES[name], 2, 32, Layout())
    rope = phi3.parse(small).rope
    assert len(rope.short_factor) == len(rope.long_factor) == divisors
    assert set(rope.long_factor) == set(CASES[name]["rope_scaling"]["long_factor"])


def test_a_bloom_of_bigscience_states_its_width_as_n_embed():
    old = {**{key: value for key, value in BLOOM.items() if key not in ("hidden_size", "n_head")}, "n_embed": 1024}
    assert bloom.parse(shrunk_config({**old, "num_attention_heads": 16}, 2, 64, Layout(tp=2))).hidden == 64


@pytest.mark.parametrize(
    ("text", "layout", "words"),
    [
        ("2", Layout(), "must be LAYERSxHIDDEN"),
        ("0x64", Layout(), "must be LAYERSxHIDDEN"),
        ("2x60", Layout(), "32 heads need a multiple of 64"),
        ("3x64", Layout(pp=2, micro_batches=2), "2 stages do not divide 3 layers"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(text, layout, words):
    with pytest.raises(ConfigError, match=words):
        shrunk_config(LLAMA, *parse_shrink(text), layout)


@pytest.mark.parametrize("family", CONFIGS)
def test_its_weights_are_drawn_and_load_as_a_base(tmp_path, family):
    heads = next(
        CONFIGS[family][name] for name in ("num_attention_heads", "n_head", "num_heads") if name in CONFIGS[family]
    )
    write_shrunk(tmp_path / "base", shrunk_config(CONFIGS[family], 1, 4 * heads, Layout(tp=2)))
    assert is_shrunk(tmp_path / "base") and not is_shrunk(tmp_path)
    for _ in range(2):
        write_random_weights(tmp_path / "base", outline_model(tmp_path / "base", num_labels=2), 0)
        loaded = load_model(tmp_path / "base", num_labels=2 if family in CLASSIFIERS else None)
        values = {p.name: p.asnumpy() for p in loaded.net.get_parameters()}
    assert all(np.isfinite(value).all() and value.std() > 0 for name, value in values.items() if "bias" not in name)
