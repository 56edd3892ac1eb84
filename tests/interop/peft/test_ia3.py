"""peft's (IA)^3 adapters: names, sides, settings, refusals, and the way out."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from petrun.checkpoint.delta import read_delta
from petrun.delta.ia3 import IA3_L, IA3_L_FF
from petrun.errors import DeltaError
from petrun.interop.convert import algo_of, from_peft, write_peft
from tests.checkpoint.toy_family import NAMES, PREFIXES

B = "base_model.model."
HEAD = {"weight": np.ones((3, 6), np.float32), "bias": np.arange(3, dtype=np.float32)}


def scales(infix=""):
    rng = np.random.default_rng(4)
    tensors = {}
    for i in range(2):
        tensors[f"{B}model.h.{i}.attn.query.ia3_l{infix}"] = rng.standard_normal((6, 1)).astype(np.float32)
        tensors[f"{B}model.h.{i}.mlp.c_fc.ia3_l{infix}"] = rng.standard_normal((1, 6)).astype(np.float32)
    return tensors


@pytest.fixture
def write_ia3(write_adapter):
    def write(tensors, folder="adapter", **config):
        path = write_adapter(tensors, folder)
        settings = {
            "peft_type": "IA3",
            "target_modules": ["query", "c_fc"],
            "feedforward_modules": ["c_fc"],
            "fan_in_fan_out": True,
            "init_ia3_weights": True,
            "task_type": "CAUSAL_LM",
            "peft_version": "0.21.2",
            "modules_to_save": None,
            "exclude_modules": None,
            **config,
        }
        (path / "adapter_config.json").write_text(json.dumps(settings))
        return path

    return write


@pytest.mark.parametrize("infix", ["", ".default"])
def test_names_settings_and_values(write_ia3, names, infix):
    tensors = scales(infix)
    raw = read_delta(write_ia3(tensors))
    assert algo_of(raw) == "ia3"
    delta = from_peft(raw, names, PREFIXES)
    assert delta.algo == "ia3" and len(delta.digest) == 64
    assert delta.config == {
        "target": ["layers.0.attn.q", "layers.0.mlp.up", "layers.1.attn.q", "layers.1.mlp.up"],
        "feedforward": ["layers.0.mlp.up", "layers.1.mlp.up"],
    }
    assert delta.shapes == {
        f"layers.{i}.{path}": (6,) for i in range(2) for path in (f"attn.q.{IA3_L}", f"mlp.up.{IA3_L_FF}")
    }
    for stored, values in tensors.items():
        i, path = stored.split(".")[4], f"attn.q.{IA3_L}" if "query" in stored else f"mlp.up.{IA3_L_FF}"
        np.testing.assert_array_equal(delta.tensors[f"layers.{i}.{path}"], values.reshape(-1))


@pytest.mark.parametrize(
    "feedforward",
    # A list holds ends of paths, not only from a dot on.
    [[".c_fc"], ["_fc"], r".*\.mlp\.c_fc", ["model.h.0.mlp.c_fc", "h.1.mlp.c_fc"]],
)
def test_feedforward_in_every_form(write_ia3, names, feedforward):
    delta = from_peft(read_delta(write_ia3(scales(), feedforward_modules=feedforward)), names)
    assert delta.config["feedforward"] == ["layers.0.mlp.up", "layers.1.mlp.up"]


REFUSED = {
    "other field": ({}, {"use_gate": True}, "use_gate: True is not supported"),
    "layers": ({}, {"layers_to_transform": [1]}, r"layers_to_transform: \[1\] is not supported"),
    "task": ({}, {"task_type": "QUESTION_ANS"}, "task_type: 'QUESTION_ANS' is not supported"),
    "regex": ({}, {"feedforward_modules": "a(b"}, r"feedforward_modules: 'a\(b' is not a regular expression"),
    "side": ({}, {"feedforward_modules": []}, r"scale is \[1, 6\], must be \(out, 1\): feedforward_modules does not"),
    "other side": (
        {},
        {"feedforward_modules": ["c_fc", "query"]},
        r"query: its scale is \[6, 1\], must be \(1, in\): feedforward_modules names it",
    ),
    "unnamed": ({}, {"target_modules": ["c_fc"]}, "query: has a scale, but target_modules does not name it"),
    "lacking": ({}, {"target_modules": ["c_fc", "query", "value"]}, "value: target_modules names it, but .* its scale"),
    "twice": (
        {B + "model.h.0.attn.query.ia3_l.default": np.ones((6, 1), np.float32)},
        {},
        "are the same scale",
    ),
    "unknown": ({B + "model.h.9.attn.query.ia3_l": np.ones((6, 1), np.float32)}, {}, "ia3_l of .* no such layer"),
    "prefix": ({"w": np.ones(2, np.float32)}, {}, r"w: does not begin with base_model\.model\."),
    "nan": (
        {B + "model.h.0.attn.query.ia3_l": np.full((6, 1), np.nan, np.float32)},
        {},
        rf"layers\.0\.attn\.q\.{IA3_L} holds NaN",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(write_ia3, names, case):
    tensors, config, message = REFUSED[case]
    with pytest.raises(DeltaError, match=message):
        from_peft(read_delta(write_ia3({**scales(), **tensors}, **config)), names)


def test_an_adapter_without_scales(write_ia3, names):
    folder = write_ia3({B + "classifier.bias": HEAD["bias"]}, target_modules="all-linear")
    with pytest.raises(DeltaError, match="holds no ia3_l tensors"):
        from_peft(read_delta(folder), names)


def test_out_and_in_again(tmp_path, write_ia3, names):
    tensors = {**scales(), **{f"{B}classifier.{k}": v for k, v in HEAD.items()}}
    delta = from_peft(read_delta(write_ia3(tensors, modules_to_save=["classifier"])), names)
    write_peft(delta, names, tmp_path / "out", task="classify", base="some/base")
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert written.keys() == tensors.keys()
    for name, values in tensors.items():
        assert written[name].shape == values.shape
        np.testing.assert_array_equal(written[name], values)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["peft_type"] == "IA3" and config["task_type"] == "SEQ_CLS" and config["inference_mode"] is True
    assert (config["target_modules"], config["feedforward_modules"]) == (["c_fc", "query"], ["c_fc"])
    assert config["modules_to_save"] == ["classifier"] and config["fan_in_fan_out"] is True
    assert config["base_model_name_or_path"] == "some/base"
    again = from_peft(read_delta(tmp_path / "out"), names)
    assert (again.digest, again.config) == (delta.digest, delta.config)


def test_layers_whose_names_mean_more_are_spelt_out(tmp_path, make_delta, names):
    """One layer of two, and a feed-forward whose leaf name ends another target's."""
    delta = make_delta(
        {f"layers.0.attn.q.{IA3_L}": np.ones(6, np.float32), f"layers.0.mlp.up.{IA3_L_FF}": np.ones(6, np.float32)},
        "ia3",
    )
    write_peft(delta, names, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.h.0.attn.query", "model.h.0.mlp.c_fc"]
    assert config["feedforward_modules"] == ["model.h.0.mlp.c_fc"]
    assert set(from_peft(read_delta(tmp_path / "out"), names).tensors) == set(delta.tensors)


def test_biases_by_themselves_have_no_place(tmp_path, make_delta, names):
    delta = make_delta(
        {f"layers.0.attn.q.{IA3_L}": np.ones(6, np.float32), "layers.1.attn.q.bias": np.ones(6, np.float32)}, "ia3"
    )
    with pytest.raises(DeltaError, match=r"trains biases, for which peft's \(IA\)\^3 adapters have no place"):
        write_peft(delta, names, tmp_path / "out")
    assert not (tmp_path / "out").exists() and "layers.1.attn.q.bias" in NAMES
