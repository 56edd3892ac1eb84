"""GGUF adapters, read back by the package gguf and held against the adapter's own products."""

import json

import numpy as np
import pytest

from petrun.errors import DeltaError
from petrun.interop.gguf import interleave_halves, write_gguf
from petrun.tensors import array_entries, open_tensors, write_safetensors

gguf = pytest.importorskip("gguf")
BASE = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 16,
}
SHAPES = {
    "self_attn.q_proj": (16, 16),
    "self_attn.k_proj": (8, 16),
    "self_attn.v_proj": (8, 16),
    "mlp.down_proj": (16, 24),
}
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "mlp.down_proj": "ffn_down",
}
FIELDS = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}


@pytest.fixture
def adapter(tmp_path):
    """Module of the second layer -> (A, B), in a file as peft writes it; ranks differ where a test says so."""

    def write(ranks=None, **more):
        rng = np.random.default_rng(1)
        tensors, factors = dict(more), {}
        for module, (rows, columns) in SHAPES.items():
            rank = (ranks or {}).get(module, 2)
            a, b = (rng.standard_normal(s).astype(np.float32) for s in ((rank, columns), (rows, rank)))
            factors[module] = (a, b)
            start = f"base_model.model.model.layers.1.{module}"
            tensors |= {f"{start}.lora_A.weight": a, f"{start}.lora_B.weight": b}
        write_safetensors(tmp_path / "adapter.safetensors", array_entries(tensors), {"format": "pt"})
        return open_tensors(tmp_path / "adapter.safetensors"), factors

    return write


def read(path):
    """(alpha, architecture, name -> values) of a file."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.type"] == "adapter" and fields["adapter.type"] == "lora"
    return fields["adapter.lora.alpha"], fields["general.architecture"], {t.name: t.data for t in reader.tensors}


def rotated(rows, heads):
    """The rows of q or k in llama.cpp's order: of each head 0, D/2, 1, D/2 + 1, ..."""
    width = len(rows) // heads
    return np.concatenate(
        [rows[[h * width + i // 2 + (i % 2) * (width // 2) for i in range(width)]] for h in range(heads)]
    )


@pytest.mark.parametrize(
    "model_type, architecture", [("llama", "llama"), ("mistral", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")]
)
def test_the_files_products_are_the_adapters(tmp_path, adapter, model_type, architecture):
    reader, factors = adapter()
    assert write_gguf(reader, FIELDS, {**BASE, "model_type": model_type}, tmp_path / "a.gguf") == 4
    alpha, found, tensors = read(tmp_path / "a.gguf")
    assert (alpha, found, len(tensors)) == (6.0, architecture, 8)
    for module, (a, b) in factors.items():
        heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}.get(module) if architecture == "llama" else None
        name = f"blk.1.{NAMES[module]}.weight"
        assert tensors[f"{name}.lora_a"].shape == a.shape, (
            "the rank is the second axis of lora_b, as llama.cpp reads it"
        )
        product = alpha / b.shape[1] * tensors[f"{name}.lora_b"] @ tensors[f"{name}.lora_a"]
        expected = 3.0 * b @ a
        np.testing.assert_allclose(product, rotated(expected, heads) if heads else expected, rtol=1e-6)


@pytest.mark.parametrize(
    "fields, ranks, scales",
    [
        ({"use_rslora": True}, {}, dict.fromkeys(SHAPES, 6 / 2**0.5)),
        (
            {"rank_pattern": {"mlp.down_proj": 3}},
            {"mlp.down_proj": 3},
            {**dict.fromkeys(SHAPES, 3.0), "mlp.down_proj": 2.0},
        ),
        ({"alpha_pattern": {"layers.1.mlp.down_proj": 8}}, {}, {**dict.fromkeys(SHAPES, 3.0), "mlp.down_proj": 4.0}),
        ({"alpha_pattern": {"down_proj": 8}}, {}, {**dict.fromkeys(SHAPES, 3.0), "mlp.down_proj": 4.0}),
    ],
)
def test_every_layer_keeps_its_own_scale(tmp_path, adapter, fields, ranks, scales):
    reader, factors = adapter(ranks)
    write_gguf(reader, {**FIELDS, **fields}, {**BASE, "model_type": "qwen2"}, tmp_path / "a.gguf")
    alpha, _, tensors = read(tmp_path / "a.gguf")
    for module, (a, b) in factors.items():
        name = f"blk.1.{NAMES[module]}.weight"
        scale = alpha / b.shape[1] if alpha else 1.0
        product = scale * tensors[f"{name}.lora_b"] @ tensors[f"{name}.lora_a"]
        np.testing.assert_allclose(product, scales[module] * b @ a, rtol=1e-5)


def test_halves_are_interleaved_within_each_head():
    rows = np.arange(8)[:, None]
    assert interleave_halves(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize(
    "fields, base, more, words",
    [
        ({"peft_type": "IA3"}, {}, {}, "it is IA3"),
        ({"use_dora": True}, {}, {}, "use_dora"),
        ({}, {"model_type": "bert"}, {}, "bert: no GGUF adapters"),
        ({}, {}, {"base_model.model.score.weight": np.ones((2, 4), np.float32)}, "score.weight: is no factor"),
        ({}, {"num_hidden_layers": 1}, {}, "has no layer model.layers.1.self_attn.q_proj"),
    ],
)
def test_what_the_file_cannot_hold_is_refused(tmp_path, adapter, fields, base, more, words):
    reader, _ = adapter(**more)
    with pytest.raises(DeltaError) as raised:
        write_gguf(reader, {**FIELDS, **fields}, {**BASE, **base}, tmp_path / "a.gguf")
    assert words in raised.value.message
    assert not list(tmp_path.glob("*.gguf*")), json.dumps([p.name for p in tmp_path.iterdir()])
