"""Adapters in every form that peft has for a LoRA give peft's logits here: read, merged, written again, and in a compiled graph."""

import json

import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file, save_file

from petrun.checkpoint.delta import read_delta
from petrun.commands import export, merge
from petrun.config.commands.merge import MergeSettings
from petrun.errors import ConfigError, DeltaError
from petrun.inference.assembly import attach_delta, fit_delta, set_delta
from petrun.inference.generation.session import Session
from petrun.models.factory import load_model
from tests.interop.peft.interop import exact_base
from tests.interop.peft.peft_adapters import BASES, IDS, STORED, cases, config_of, write_adapter

USUAL = (
    "adapted-alike llama",
    "saved-and-adapted gpt2",
    "tokens-apart llama",
    "embed-saved llama",
    "bias gpt2",
    "pissa gpt2",
    "olora llama",
)


def matrix():
    for name, base in cases():
        marks = () if f"{name} {base}" in USUAL else pytest.mark.all_only
        yield pytest.param(name, base, marks=marks, id=f"{name}-{base}")


def made(folder, name, base):
    """The base and the adapter of a case, and peft's logits."""
    exact_base(folder / base, "gpt2" if base == "gpt2" else "llama", **BASES[base])
    adapter = write_adapter(folder / "adapter", name, base, load_file(folder / base / "model.safetensors"))
    return folder / base, adapter, np.array(json.loads(STORED.read_text())["logits"][f"{name} {base}"])


def last_logits(loaded):
    ids = IDS.astype(np.int32)
    table = {"input_ids": ids, "segment_ids": np.ones_like(ids)}
    table["position_ids"] = np.tile(np.arange(ids.shape[1], dtype=np.int32), (len(ids), 1))
    loaded.net.set_train(False)
    return loaded.net(*(Tensor(table[name]) for name in loaded.inputs)).asnumpy()[:, -1]


def with_delta(base, delta):
    loaded = load_model(base)
    fitted = fit_delta(read_delta(delta), loaded, None)
    assembled = attach_delta(loaded, fitted)
    set_delta(assembled, fitted)
    return assembled.loaded


def merged(base, adapter, out):
    merge.run(MergeSettings(base=str(base), deltas=(str(adapter),), out=str(out)))
    return load_model(out)


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize(("name", "base"), list(matrix()))
def test_peft_computes_the_same(tmp_path, name, base):
    place, adapter, want = made(tmp_path, name, base)
    np.testing.assert_allclose(last_logits(with_delta(place, adapter)), want, atol=1e-4)
    if config_of(name, base).get("lora_bias") and base == "llama":
        with pytest.raises(DeltaError, match="its layer has no bias in the base that could take it up"):
            merged(place, adapter, tmp_path / "merged")
    else:
        np.testing.assert_allclose(last_logits(merged(place, adapter, tmp_path / "merged")), want, atol=1e-4)
    written = export.run(base=str(place), delta=str(adapter), out=str(tmp_path / "written"))
    np.testing.assert_allclose(last_logits(with_delta(place, written)), want, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("both-adapted", "gpt2"),
        pytest.param("bias", "gpt2", marks=pytest.mark.all_only),
        pytest.param("embed-saved", "llama", marks=pytest.mark.all_only),
    ],
)
def test_in_a_compiled_graph(tmp_path, graph_mode, name, base):
    place, adapter, want = made(tmp_path, name, base)
    np.testing.assert_allclose(last_logits(with_delta(place, adapter)), want, atol=1e-4)


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize(("name", "base"), [("pissa", "gpt2"), ("olora", "llama")])
def test_a_base_that_the_first_matrices_were_taken_off(tmp_path, name, base):
    """What peft saves as the residual model: the adapter adds its product, and nothing is taken off a second time."""
    place, adapter, _ = made(tmp_path, name, base)
    config = json.loads((adapter / "adapter_config.json").read_text())
    # OLoRA takes s times its matrices off: only at s = 1 is a rank lost.
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": config["r"]}))
    loaded = with_delta(place, adapter)
    want = last_logits(loaded)
    stored = load_file(place / "model.safetensors")
    for path, cell in loaded.net.cells_and_names():
        if hasattr(cell, "mindpet_delta_lora_a0"):
            taken = cell.scaling * cell.mindpet_delta_lora_b0.asnumpy() @ cell.mindpet_delta_lora_a0.asnumpy()
            key = loaded.names[f"{path}.weight"]
            stored[key.name] = np.ascontiguousarray(stored[key.name] - (taken.T if key.transpose else taken)).astype(
                np.float32
            )
    save_file(stored, place / "model.safetensors", {"format": "pt"})
    again = with_delta(place, adapter)
    assert not any(hasattr(cell, "mindpet_delta_lora_a0") for _, cell in again.net.cells_and_names())
    np.testing.assert_allclose(last_logits(again), want, atol=1e-4)


REFUSED = {
    "layer_replication": (
        {"layer_replication": [[0, 2], [1, 2]]},
        r"layer_replication: \[\[0, 2\], \[1, 2\]\] is not supported \(",
    ),
    "alora": ({"alora_invocation_tokens": [3]}, r"alora_invocation_tokens: \[3\] is not supported \("),
    "pissa_niter": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights: 'pissa_niter_4' is not supported"),
    "dora and pissa": ({"init_lora_weights": "pissa", "use_dora": True}, "use_dora: together with init_lora_weights"),
    "tokens": ({"trainable_token_indices": [3.5]}, "trainable_token_indices: must be token ids"),
    "tokens not there": (
        {"trainable_token_indices": {"norm_f": [3]}},
        "trainable_token_indices: norm_f is none of the base's layers",
    ),
    "rows lacking": ({"trainable_token_indices": [3]}, "trainable_token_indices names it, but the file lacks its rows"),
    "no weight": (
        {"target_parameters": ["mlp.experts"]},
        r"target_parameters: .* \(mlp.experts is no layer's weight\)",
    ),
    "tied pissa": (
        {"init_lora_weights": "pissa", "target_modules": ["q_proj", "lm_head"]},
        "init_lora_weights pissa of head: ",
    ),
}


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_key(tmp_path, case):
    changes, words = REFUSED[case]
    place, adapter, _ = made(tmp_path, "head-adapted" if "lm_head" in str(changes) else "bias", "llama")
    config = {**json.loads((adapter / "adapter_config.json").read_text()), **changes}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(DeltaError, match=words):
        with_delta(place, adapter)


def test_training_does_not_go_on_from_rows(place, petrun):
    base, adapter, _ = made(place, "tokens", "llama")
    done = petrun(f"train --base {base} --data orders.jsonl --init-delta {adapter} --steps 1 --out run")
    assert done.code == 2 and "trainable_token_indices: a few rows of a matrix train" in " ".join(done.err.split())
    assert not (place / "run").exists()


def test_half_of_an_adapter_whose_head_comes_apart(place, petrun):
    """The head's base value is the embedding's: W + (T - W) / 2."""
    base, adapter, _ = made(place, "head-saved", "llama")
    done = petrun(f"delta scale {adapter} 0.5 --base {base} --out half.ckpt")
    assert done.code == 0, done.err
    whole = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    trained = load_file(adapter / "adapter_model.safetensors")["base_model.model.lm_head.weight"]
    found = read_delta(place / "half.ckpt").tensors["head.weight"]
    np.testing.assert_allclose(found, (whole + trained) / 2, atol=1e-6)


@pytest.mark.usefixtures("pynative")
def test_an_embedding_is_not_switched(tmp_path):
    place, adapter, want = made(tmp_path, "embed-adapted", "llama")
    session = Session.open(str(place), {"one": str(adapter)})
    assert session.multi_adapter.fixed
    np.testing.assert_allclose(last_logits(session.loaded), want, atol=1e-4)
    with pytest.raises(ConfigError, match=r"LoRA on an embedding \(embed\) cannot be switched"):
        Session.open(str(place), {"one": str(adapter), "two": str(adapter)})
