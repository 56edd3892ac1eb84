"""config.json: every field that changes the mathematics is computed or refused; both generations of files mean the same."""

import pytest

from petrun.errors import ModelError
from petrun.models import bert, gpt2, llama
from petrun.models.families import family_of_type
from petrun.models.fields import FOREIGN
from tests.models import reference
from tests.models.agreement import CONFIGS
from tests.models.transformers_cases import CASES

PARSE = {"bert": bert.parse, "gpt2": gpt2.parse}
BASES = {"bert": reference.BERT, "gpt2": reference.GPT2}


def parse(kind, change):
    raw = {**BASES.get(kind, {**reference.LLAMA, "model_type": kind}), **change}
    return PARSE.get(kind, llama.parse)({k: v for k, v in raw.items() if v != "ABSENT"})


REFUSED = [
    (
        "bert",
        {"hidden_act": "gelu_10"},
        'hidden_act = "gelu_10" is not supported for bert; supported: gelu, gelu_accurate',
    ),
    ("bert", {"hidden_act": 3}, "hidden_act = 3 is not supported"),
    (
        "bert",
        {"position_embedding_type": "relative_key"},
        'position_embedding_type = "relative_key" is not supported for bert; supported: "absolute"',
    ),
    ("bert", {"is_decoder": True}, "is_decoder = true is not supported for bert; supported: false"),
    ("bert", {"add_cross_attention": True}, "add_cross_attention = true"),
    ("bert", {"num_attention_heads": 3}, "hidden_size = 16: must be a multiple of num_attention_heads = 3"),
    ("bert", {"hidden_size": "16"}, 'hidden_size = "16": must be an integer of at least 1'),
    ("bert", {"hidden_size": "ABSENT"}, "hidden_size is missing"),
    ("bert", {"vocab_size": 0}, "vocab_size = 0: must be an integer of at least 1"),
    ("bert", {"vocab_size": 2**31}, "vocab_size = 2147483648: must be an integer of at least 1 and below 2147483648"),
    ("bert", {"num_hidden_layers": True}, "num_hidden_layers = true: must be an integer"),
    ("bert", {"layer_norm_eps": 0}, "layer_norm_eps = 0: must be a number above 0"),
    ("bert", {"layer_norm_eps": -1e-5}, "layer_norm_eps = -1e-05: must be a number above 0"),
    ("bert", {"hidden_dropout_prob": 1.0}, "hidden_dropout_prob = 1.0: must be a number of at least 0 and below 1"),
    ("bert", {"pruned_heads": {"0": [1]}}, "pruned_heads = {'0': [1]} is not supported for bert"),
    ("bert", {"is_encoder_decoder": True}, "is_encoder_decoder = true"),
    ("gpt2", {"activation_function": "gelu2"}, 'activation_function = "gelu2" is not supported for gpt2'),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention = true is not supported for gpt2"),
    ("gpt2", {"scale_attn_weights": "yes"}, 'scale_attn_weights = "yes": must be true or false'),
    ("gpt2", {"n_embd": "ABSENT"}, "n_embd is missing"),
    ("gpt2", {"n_head": 5}, "n_embd = 16: must be a multiple of n_head = 5"),
    ("gpt2", {"n_inner": -2}, "n_inner = -2"),
    ("gpt2", {"attn_pdrop": "0.1"}, 'attn_pdrop = "0.1": must be a number'),
    (
        "gpt2",
        {"quantization_config": {"bits": 4}},
        "quantization_config = {'bits': 4} is not supported for gpt2; supported: leaving it out",
    ),
    ("llama", {"hidden_act": "swiglu"}, 'hidden_act = "swiglu" is not supported for llama'),
    ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ("llama", {"num_key_value_heads": 3}, "num_key_value_heads = 3: must be a divisor of num_attention_heads = 4"),
    ("llama", {"head_dim": 5}, "head_dim = 5: must be even"),
    ("llama", {"hidden_size": 18}, "hidden_size = 18: must be a multiple of num_attention_heads = 4"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    ("llama", {"is_causal": False}, "is_causal = false is not supported for llama; supported: true"),
    (
        "llama",
        {"attention_multiplier": 0.1},
        "attention_multiplier = 0.1 is not supported for llama; supported: 1 (off)",
    ),
    ("llama", {"logits_scaling": 8}, "logits_scaling = 8"),
    ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0"),
    ("llama", {"num_local_experts": 8}, "num_local_experts = 8"),
    ("llama", {"rms_norm_eps": "1e-6"}, "rms_norm_eps"),
    ("mistral", {"sliding_window": -1}, "sliding_window = -1"),
    ("mistral", {"sliding_window": 4, "layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    (
        "qwen2",
        {"layer_types": ["sliding_attention", "full_attention"]},
        "without sliding_attention where no sliding_window is in use",
    ),
    ("qwen2", {"layer_types": ["full_attention"]}, "supported: 2 times full_attention or sliding_attention"),
    ("qwen3", {"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
    ("qwen3", {"use_sliding_window": 1}, "use_sliding_window = 1: must be true or false"),
    (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 0},
        "sliding_window = 0: must be an integer of at least 1",
    ),
]


@pytest.mark.parametrize(("kind", "change", "message"), REFUSED, ids=[f"{k}-{c}" for k, c, _ in REFUSED])
def test_refused(kind, change, message):
    with pytest.raises(ModelError) as caught:
        parse(kind, change)
    assert message in caught.value.message


def test_all_problems_at_once():
    with pytest.raises(ModelError) as caught:
        parse("llama", {"hidden_act": "silo", "quantization_config": {"bits": 8}, "vocab_size": "many"})
    for part in ('hidden_act = "silo"', "quantization_config", 'vocab_size = "many"'):
        assert part in caught.value.message
    assert "Did you mean silu" in caught.value.hint
    assert "dequantise" in caught.value.hint


ACCEPTED = [
    (
        "bert",
        {
            "position_embedding_type": "absolute",
            "problem_type": "regression",
            "gradient_checkpointing": False,
            "use_cache": True,
        },
    ),
    (
        "bert",
        {"quantization_config": None, "pruned_heads": {}, "torch_dtype": "float16", "architectures": ["BertModel"]},
    ),
    ("gpt2", {"reorder_and_upcast_attn": True, "n_ctx": 20, "summary_type": "cls_index", "task_specific_params": {}}),
    ("llama", {"pretraining_tp": 4, "rope_scaling": None, "sliding_window": 3, "_attn_implementation": "sdpa"}),
    ("llama", {"final_logit_softcapping": None, "num_local_experts": 1, "attention_multiplier": 1.0}),
    ("qwen2", {"use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 1, "use_mrope": False}),
]


@pytest.mark.parametrize(("kind", "change"), ACCEPTED, ids=str)
def test_fields_that_change_nothing(kind, change):
    assert parse(kind, change) == parse(kind, {})


def test_foreign_fields_are_refused_by_every_family():
    for name, off in FOREIGN.items():
        for kind in ("bert", "gpt2", "qwen3"):
            with pytest.raises(ModelError, match=name):
                parse(kind, {name: 7})
            for value in (None, *off):
                assert parse(kind, {name: value}) == parse(kind, {})


@pytest.mark.parametrize("name", [*CASES, "chatglm"])
def test_every_decoder_is_causal(name):
    """transformers' decoders see later tokens where is_causal is false."""
    config = CONFIGS[name]
    parse_config = family_of_type(config["model_type"]).parse
    assert parse_config({**config, "is_causal": True}) == parse_config(config)
    with pytest.raises(ModelError, match=r"is_causal = false is not supported for .*; supported: true"):
        parse_config({**config, "is_causal": False})


def test_encoders_are_not_causal():
    assert parse("bert", {"is_causal": False}) == parse("bert", {})


def test_defaults_of_transformers():
    """What a file leaves out, or holds as null."""
    config = parse("mistral", {"num_key_value_heads": "ABSENT", "num_attention_heads": 8, "rope_theta": "ABSENT"})
    assert (config.kv_heads, config.windows, config.rope.theta) == (8, (4096, 4096), 10000.0)
    assert parse("mistral", {"sliding_window": None}).windows == (0, 0)
    assert parse("mistral", {"sliding_window": 4, "head_dim": None}).head_dim == 4
    config = parse("llama", {"num_key_value_heads": None, "head_dim": None, "max_position_embeddings": "ABSENT"})
    assert (config.kv_heads, config.head_dim, config.positions) == (4, 4, 2048)
    assert parse("qwen3", {}).head_dim == 128
    config = parse(
        "bert", {"hidden_dropout_prob": "ABSENT", "attention_probs_dropout_prob": "ABSENT", "layer_norm_eps": "ABSENT"}
    )
    assert (config.hidden_dropout, config.attention_dropout, config.classifier_dropout, config.eps) == (
        0.1,
        0.1,
        0.1,
        1e-12,
    )
    assert parse("bert", {"classifier_dropout": 0.3}).classifier_dropout == 0.3
    config = parse("gpt2", {"n_inner": None, "activation_function": "ABSENT", "resid_pdrop": "ABSENT"})
    assert (config.wide, config.act, config.residual_dropout, config.tied) == (64, "gelu_new", 0.1, True)


def test_both_generations_of_files():
    old = {
        "rope_theta": 1e6,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        "torch_dtype": "bfloat16",
    }
    new = {
        "rope_theta": "ABSENT",
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        "dtype": "bfloat16",
        "layer_types": ["full_attention", "full_attention"],
    }
    assert parse("qwen2", old) == parse("qwen2", new)
    old = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
    new = {**old, "layer_types": ["full_attention", "sliding_attention"]}
    assert parse("qwen3", old) == parse("qwen3", new)
    assert parse("qwen3", new).windows == (0, 5)
    assert parse("qwen3", {**old, "sliding_window": None}).windows == (0, 0)


def test_gpt2_takes_the_common_names():
    common = {"hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 20}
    own = dict.fromkeys(("n_embd", "n_head", "n_layer", "n_positions"), "ABSENT")
    assert parse("gpt2", {**own, **common}) == parse("gpt2", {})
