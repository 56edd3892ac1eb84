"""A merged model as one GGUF file, read back by the package gguf and held against the merged folder."""

import json

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from petrun.tensors import open_tensors
from tests.deltas import make_delta
from tests.tiny import write_base

gguf = pytest.importorskip("gguf")
ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def read(path):
    """(key -> value, name -> values) of a file."""
    reader = gguf.GGUFReader(path)
    tensors = {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape([int(n) for n in reversed(t.shape)])
        for t in reader.tensors
    }
    return {name: field.contents() for name, field in reader.fields.items()}, tensors


def llama_order(values, heads):
    """Rows of one half of a head beside those of the other, as llama.cpp rotates neighbours."""
    shape = values.shape
    return values.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


@pytest.mark.parametrize(
    ("family", "changes", "dtype"),
    [
        ("llama", {"rope_scaling": {**ROPE, "original_max_position_embeddings": 32}}, "float16"),
        ("llama", {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "bfloat16"),
        ("llama", {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 4}, "float32"),
    ],
)
def test_what_is_written_is_the_merged_model(tmp_path, monkeypatch, petrun, family, changes, dtype):
    monkeypatch.chdir(tmp_path)
    base = write_base(tmp_path / "base", family, **changes)
    make_delta(tmp_path / "d.ckpt", base, "lora", rank=2, alpha=8.0)
    assert petrun(f"merge --base base --delta d.ckpt --out merged --dtype {dtype}").code == 0
    done = petrun(f"merge --base base --delta d.ckpt --out m.gguf --dtype {dtype} --prove")
    assert done.code == 0 and "proof on" in done.out and "wrote m.gguf" in done.out, done.err
    fields, tensors = read("m.gguf")
    config = json.loads((base / "config.json").read_text())
    kind = changes.get("model_type", "llama")
    assert fields["general.architecture"] == kind and fields["general.type"] == "model"
    for key, name in (
        ("block_count", "num_hidden_layers"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("context_length", "max_position_embeddings"),
        ("vocab_size", "vocab_size"),
    ):
        assert fields[f"{kind}.{key}"] == config[name], key
    assert fields[f"{kind}.rope.freq_base"] == pytest.approx(config.get("rope_theta", 10000.0))
    width = config["hidden_size"] // config["num_attention_heads"]
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        assert fields[f"{kind}.{key}"] == width, key
    assert fields[f"{kind}.attention.layer_norm_rms_epsilon"] == pytest.approx(config.get("rms_norm_eps", 1e-6))
    merged = open_tensors(tmp_path / "merged")
    names = gguf.get_tensor_name_map(
        {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}[kind],
        config["num_hidden_layers"],
    )
    found = dict(tensors)
    for name in merged.names:
        values = merged.read(name).astype(np.float32)
        if kind == "llama" and ".q_proj." in name:
            values = llama_order(values, config["num_attention_heads"])
        if kind == "llama" and ".k_proj." in name:
            values = llama_order(values, config["num_key_value_heads"])
        np.testing.assert_array_equal(found.pop(names.get_name(name, (".weight", ".bias"))), values, err_msg=name)
    if kind == "llama":
        waves = 2 * np.pi * config.get("rope_theta", 10000.0) ** (np.arange(0, width, 2) / width)
        blend = np.clip((32 / waves - 1.0) / (4.0 - 1.0), 0, 1)
        np.testing.assert_allclose(found.pop("rope_freqs.weight"), 1 / ((1 - blend) / 8 + blend), rtol=1e-5)
    assert not found
    tokenizer = Tokenizer.from_file(str(tmp_path / "merged" / "tokenizer.json"))
    tokens = fields["tokenizer.ggml.tokens"]
    assert fields["tokenizer.ggml.model"] == "gpt2" and fields["tokenizer.ggml.pre"] == "gpt-2"
    assert len(tokens) == config["vocab_size"] and all(
        tokenizer.id_to_token(i) in (token, None) for i, token in enumerate(tokens)
    )
    eos = tokenizer.token_to_id("<eos>")
    assert fields["tokenizer.ggml.eos_token_id"] == eos
    assert fields["tokenizer.ggml.token_type"][eos] == gguf.TokenType.CONTROL
    assert (
        fields["tokenizer.chat_template"] == json.loads((base / "tokenizer_config.json").read_text())["chat_template"]
    )
    assert (tmp_path / "m.Modelfile").read_text() == 'FROM ./m.gguf\nPARAMETER stop "<eos>"\n'


@pytest.mark.parametrize(
    ("family", "changes", "pattern", "words"),
    [
        ("gpt2", {}, None, "no GGUF file is written of such a model"),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, None, "rotary positions of the kind yarn"),
        ("llama", {"model_type": "mistral", "sliding_window": 8}, None, "sliding windows have no GGUF form"),
        ("llama", {}, r"\p{L}+|\p{N}{1,2}", "by a rule that llama.cpp does not have"),
        # Llama 3's rule takes words that are tokens whole; this tokenizer does not.
        ("llama", {}, LLAMA3, "by a rule that llama.cpp does not have"),
    ],
)
def test_refused_before_any_work(tmp_path, monkeypatch, petrun, family, changes, pattern, words):
    monkeypatch.chdir(tmp_path)
    base = write_base(tmp_path / "base", family, **changes)
    if pattern is not None:
        tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
        steps = [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        tokenizer.save(str(base / "tokenizer.json"))
    done = petrun("merge --base base --delta none.ckpt --out m.gguf")
    assert done.code in (1, 2) and words in " ".join(done.err.split()), done.err
    (tmp_path / "m.Modelfile").write_text("mine")
    done = petrun("merge --base base --delta none.ckpt --out m.gguf")
    assert done.code in (1, 2) and "m.Modelfile: exists" in done.err
    assert (tmp_path / "m.Modelfile").read_text() == "mine" and not (tmp_path / "m.gguf").exists()
