"""From a delta to a peft folder and back: the same logits here, the formulas' numbers in the file, and the same logits in peft."""

import importlib.util
import json

import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file

from petrun.checkpoint.delta import read_delta, save_delta
from petrun.commands import export
from petrun.delta import find_method
from petrun.errors import ConfigError, DeltaError, OutputError
from petrun.inference.assembly import attach, attach_delta, fit_delta, head_names, set_delta
from petrun.models.factory import load_model
from tests.interop.peft.interop import LIBRARIES, in_theirs, logits, write_delta
from tests.tiny import write_base

FAMILIES = ["bert", "gpt2", "llama"]
METHODS = {
    "lora": {"rank": 2, "alpha": 8.0},
    "ia3": {},
    "prompt": {"tokens": 3},
    "ptuning": {"tokens": 3, "middle": 5},
    "ptuning+r_drop": {"tokens": 3, "encoder": "lstm", "middle": 5, "dropout": 0.1},
    "ptuning2": {"tokens": 3},
    "prefix": {"tokens": 3, "middle": 5},
    "lora+bitfit": {"rank": 2, "alpha": 8.0},
}


def matrix():
    """Every method with every family that can take it; by default every second method with one family."""
    for i, algo in enumerate(METHODS):
        families = [family for family in FAMILIES if (algo, family) != ("lora+bitfit", "llama")]
        for j, family in enumerate(families):
            marks = () if i % 2 == 0 and i // 2 % len(families) == j else pytest.mark.all_only
            yield pytest.param(algo, family, marks=marks, id=f"{algo}-{family}")


def open_base(folder, family):
    return load_model(folder, num_labels=2 if family == "bert" else None)


def make_delta(folder, family, algo, path, settings=None):
    """A delta as a run would save it, every value of it random. Returns the assembled net."""
    loaded = open_base(folder, family)
    method = find_method(algo)
    config = method.config(**(METHODS[algo] if settings is None else settings))
    assembled = attach(loaded, method, config, 0, head_names(loaded))
    rng = np.random.default_rng(3)
    for p in loaded.net.get_parameters():
        if p.name in assembled.owned:
            p.set_data(Tensor((p.asnumpy() + 0.2 * rng.standard_normal(p.shape)).astype(np.float32)))
    write_delta(path, assembled, family, "classify" if family == "bert" else "lm")
    return assembled.loaded


@pytest.mark.parametrize(("algo", "family"), list(matrix()))
def test_out_and_in_again(tmp_path, algo, family):
    base = write_base(tmp_path / "base", family)
    ours = make_delta(base, family, algo, tmp_path / "delta.ckpt")
    ids, want = logits(ours)
    before = logits(open_base(base, family))[1]
    assert np.abs(want - before).max() > 1e-2
    folder = export.run(base=str(base), delta=str(tmp_path / "delta.ckpt"), out=str(tmp_path / "adapter"))
    assert {p.name for p in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    again = open_base(base, family)
    fitted = fit_delta(read_delta(folder), again, None)
    assembled = attach_delta(again, fitted)
    set_delta(assembled, fitted)
    np.testing.assert_allclose(logits(assembled.loaded)[1], want, atol=1e-5)
    in_peft(base, family, folder, ids, want)


def in_peft(base, family, folder, ids, want):
    """The same logits in peft, where it is installed."""
    if all(importlib.util.find_spec(name) for name in LIBRARIES):
        np.testing.assert_allclose(in_theirs("peft", family, base.parent, folder, ids), want, atol=1e-4)


def exported(tmp_path, family, algo, **settings):
    base = write_base(tmp_path / "base", family)
    make_delta(base, family, algo, tmp_path / "delta.ckpt", settings or None)
    folder = export.run(base=str(base), delta=str(tmp_path / "delta.ckpt"), out=str(tmp_path / "adapter"))
    tensors = load_file(folder / "adapter_model.safetensors")
    values = read_delta(tmp_path / "delta.ckpt").tensors
    return json.loads((folder / "adapter_config.json").read_text()), tensors, values


@pytest.mark.parametrize(
    ("algo", "settings", "mark"),
    [
        ("prefix", {"tokens": 3, "middle": 5}, "mindpet_delta_prefixtuning"),
        ("ptuning2", {"tokens": 3, "middle": 5, "projection": True}, "mindpet_delta_ptuning2"),
    ],
)
def test_a_prefixs_network_is_computed(tmp_path, algo, settings, mark):
    config, tensors, values = exported(tmp_path, "llama", algo, **settings)
    assert config["peft_type"] == "PREFIX_TUNING" and config["prefix_projection"] is False
    heads, width = config["num_attention_heads"], config["token_dim"] // config["num_attention_heads"]
    assert (config["num_virtual_tokens"], config["num_layers"]) == (3, 2)
    at = f"attn.core.encoder.{mark}.source"
    trunk = f"layers.0.{at}.trunk"
    middle = np.tanh(
        values[f"{trunk}.embedding.table"] @ values[f"{trunk}.dense_in.weight"].T + values[f"{trunk}.dense_in.bias"]
    )
    table = tensors["prompt_embeddings"].reshape(3, 4, heads, width)
    for layer in range(2):
        flat = (
            middle @ values[f"layers.{layer}.{at}.dense_out.weight"].T + values[f"layers.{layer}.{at}.dense_out.bias"]
        )
        keys_values = flat.reshape(3, 2, heads, width)
        np.testing.assert_allclose(table[:, 2 * layer : 2 * layer + 2], keys_values, rtol=1e-5, atol=1e-6)


def test_a_prompts_network_is_computed(tmp_path):
    config, tensors, values = exported(tmp_path, "gpt2", "ptuning")
    assert config["peft_type"] == "PROMPT_TUNING" and config["num_virtual_tokens"] == 3
    at = "embed.encoder.mindpet_delta_ptuning"
    x = values[f"{at}.embedding.table"]
    for i, layer in enumerate(("first", "second", "last")):
        x = x @ values[f"{at}.{layer}.weight"].T + values[f"{at}.{layer}.bias"]
        x = np.maximum(x, 0) if i < 2 else x
    assert set(tensors) == {"prompt_embeddings"}
    np.testing.assert_allclose(tensors["prompt_embeddings"], x, rtol=1e-5, atol=1e-6)


def test_what_has_no_peft_form(tmp_path):
    base = write_base(tmp_path / "base", "bert")
    out = str(tmp_path / "out")

    def attempt(algo, settings=None, **more):
        make_delta(base, "bert", algo, tmp_path / "delta.ckpt", settings)
        return export.run(base=str(base), delta=str(tmp_path / "delta.ckpt"), out=out, **more)

    with pytest.raises(DeltaError, match="adapter delta, which has no peft form"):
        attempt("adapter", {"bottleneck": 3})
    with pytest.raises(DeltaError, match="which has no peft form"):
        attempt("bitfit", {})
    for algo, settings in (("ia3+bitfit", {}), ("prompt+bitfit", {"tokens": 2})):
        with pytest.raises(DeltaError, match=r"trains biases, for which peft's .* adapters have no place"):
            attempt(algo, settings)
    with pytest.raises(ConfigError, match="peft knows Hugging Face models"):
        attempt("lora", family="own.py:build")
    assert not (tmp_path / "out").exists()
    attempt("lora")
    with pytest.raises(OutputError, match="is not an empty folder"):
        attempt("lora")


def test_virtual_tokens_need_the_task(tmp_path):
    base = write_base(tmp_path / "base", "gpt2")
    make_delta(base, "gpt2", "prompt", tmp_path / "delta.ckpt")
    delta = read_delta(tmp_path / "delta.ckpt")
    manifest = delta.manifest.model_copy(update={"task": None})
    save_delta(tmp_path / "untold.ckpt", {n: np.array(delta.tensors[n]) for n in delta.tensors}, manifest)
    arguments = {"base": str(base), "delta": str(tmp_path / "untold.ckpt"), "out": str(tmp_path / "out")}
    with pytest.raises(DeltaError, match="peft puts virtual tokens only into a model of a known task"):
        export.run(**arguments)
    assert (export.run(**arguments, task="lm") / "adapter_config.json").exists()
