"""Trained rows as peft's trainable tokens, alone and beside LoRA: read, written, read again."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from petrun.checkpoint.delta import BaseIdentity, Manifest, read_delta, save_delta
from petrun.commands import export
from petrun.delta import find_method
from petrun.delta.rows import ROWS
from petrun.errors import DeltaError
from petrun.models.factory import load_model
from tests.interop.peft.interop import exact_base
from tests.interop.peft.test_peft_adapters import last_logits, with_delta

IDS = [21, 3, 7]
DRAW = np.random.default_rng(4)


def base_of(folder, tied):
    exact_base(folder, "llama", vocab_size=32, tie_word_embeddings=tied)
    return folder


def adapter_of(folder, modules, **changes):
    """What peft 0.21 saves for TrainableTokensConfig(token_indices=IDS): of a tied base the head's rows as well, which it does not use."""
    folder.mkdir()
    config = {
        "peft_type": "TRAINABLE_TOKENS",
        "task_type": None,
        "target_modules": [m.rpartition(".")[2] for m in modules],
    }
    config |= {"token_indices": IDS, "init_weights": True, **changes}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    values = {
        f"base_model.model.{m}.trainable_tokens_delta": DRAW.normal(size=(3, 16)).astype(np.float32) for m in modules
    }
    save_file(values, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder, values


def with_rows(base, out, values):
    """The base, with the rows in its tables."""
    stored = load_file(base / "model.safetensors")
    for name, rows in values.items():
        table = f"{name.removeprefix('base_model.model.').removesuffix('.trainable_tokens_delta')}.weight"
        if table in stored:
            stored[table] = stored[table].copy()
            stored[table][IDS] = rows
    out.mkdir()
    (out / "config.json").write_text((base / "config.json").read_text())
    save_file(stored, out / "model.safetensors", {"format": "pt"})
    return load_model(out)


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize(
    ("tied", "modules"),
    [
        (True, ("model.embed_tokens", "lm_head")),
        (False, ("model.embed_tokens", "lm_head")),
        (False, ("model.embed_tokens",)),
    ],
)
def test_rows_alone_are_those_of_a_base_that_has_them(tmp_path, tied, modules):
    base = base_of(tmp_path / "base", tied)
    adapter, values = adapter_of(tmp_path / "adapter", modules)
    want = last_logits(with_rows(base, tmp_path / "replaced", values))
    assert np.abs(want - last_logits(load_model(base))).max() > 1e-2
    np.testing.assert_allclose(last_logits(with_delta(base, adapter)), want, atol=1e-5)
    written = export.run(base=str(base), delta=str(adapter), out=str(tmp_path / "written"))
    again = json.loads((written / "adapter_config.json").read_text())
    assert again["peft_type"] == "TRAINABLE_TOKENS" and again["token_indices"] == sorted(IDS)
    np.testing.assert_allclose(last_logits(with_delta(base, written)), want, atol=1e-5)


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("tied", [True, False])
def test_rows_beside_lora_are_its_trainable_token_indices(tmp_path, tied):
    base = base_of(tmp_path / "base", tied)
    method = find_method("lora+rows")
    config = method.config(rank=2, rows="3,7,21")
    loaded = load_model(base)
    owned = method.attach(loaded.net, config, loaded.sites, 0)
    values = {
        p.name: DRAW.normal(size=p.shape).astype(np.float32) for p in loaded.net.get_parameters() if p.name in owned
    }
    assert sum(name.endswith(ROWS) for name in values) == (1 if tied else 2)
    manifest = Manifest(algo=method.name, config=config.model_dump(mode="json"), base=BaseIdentity(digest=""))
    save_delta(tmp_path / "delta.ckpt", values, manifest)
    assert read_delta(tmp_path / "delta.ckpt").algo == "lora+rows"
    want = last_logits(with_delta(base, tmp_path / "delta.ckpt"))
    written = export.run(base=str(base), delta=str(tmp_path / "delta.ckpt"), out=str(tmp_path / "written"))
    indices = json.loads((written / "adapter_config.json").read_text())["trainable_token_indices"]
    assert indices == ([3, 7, 21] if tied else {"embed_tokens": [3, 7, 21], "lm_head": [3, 7, 21]})
    names = {name.removeprefix("base_model.model.") for name in load_file(written / "adapter_model.safetensors")}
    assert "model.embed_tokens.token_adapter.trainable_tokens_delta" in names
    assert ("lm_head.token_adapter.trainable_tokens_delta" in names) != tied
    np.testing.assert_allclose(last_logits(with_delta(base, written)), want, atol=1e-5)


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize(
    ("modules", "changes", "said"),
    [
        (("model.embed_tokens",), {"token_indices": [1, 2]}, "token_indices names 2 rows"),
        (("model.embed_tokens",), {"token_indices": [1, 2.5]}, "must be different token ids"),
        (("model.embed_tokens",), {"use_dora": True}, "use_dora: True is not supported"),
        (("lm_head",), {}, "holds no trainable_tokens_delta of the token embedding"),
        (("model.layers.0.self_attn.q_proj",), {}, "is neither the token embedding nor the head"),
        (("model.embed",), {}, "the base has no such layer"),
    ],
)
def test_refused_with_the_reason(tmp_path, modules, changes, said):
    base = base_of(tmp_path / "base", True)
    adapter, _ = adapter_of(tmp_path / "adapter", modules, **changes)
    with pytest.raises(DeltaError, match=said):
        with_delta(base, adapter)


def test_other_kinds_of_adapters_have_no_place_for_rows(tmp_path):
    base = base_of(tmp_path / "base", True)
    method = find_method("ia3+rows")
    config = method.config(rows="3")
    loaded = load_model(base)
    owned = method.attach(loaded.net, config, loaded.sites, 0)
    values = {p.name: p.asnumpy() for p in loaded.net.get_parameters() if p.name in owned}
    manifest = Manifest(algo=method.name, config=config.model_dump(mode="json"), base=BaseIdentity(digest=""))
    save_delta(tmp_path / "delta.ckpt", values, manifest)
    with pytest.raises(DeltaError, match="IA3 adapters have no place"):
        export.run(base=str(base), delta=str(tmp_path / "delta.ckpt"), out=str(tmp_path / "written"))
    assert not (tmp_path / "written").exists()
