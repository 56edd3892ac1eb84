"""peft adapters: names, heads, patterns, and every field that would change the mathematics."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from petrun.checkpoint.delta import read_delta
from petrun.delta.lora import LORA_A, LORA_B, LoraConfig, merge
from petrun.errors import DeltaError, OutputError
from petrun.interop.convert import from_peft, to_net_names, trained_classes, write_peft
from petrun.interop.peft.lora_config import parse_lora_config
from petrun.tensors import TensorEntry, open_tensors, write_safetensors
from tests.checkpoint.toy_family import PREFIXES

MODULES = {
    "model.h.0.attn.query": ("layers.0.attn.q", 6, 6),
    "model.h.1.attn.query": ("layers.1.attn.q", 6, 6),
    "model.h.0.mlp.c_fc": ("layers.0.mlp.up", 8, 6),
    "model.h.1.mlp.c_fc": ("layers.1.mlp.up", 8, 6),
}
PATHS = [path for path, _, _ in MODULES.values()]


def factors(modules=MODULES, ranks=None, prefix="base_model.model.", infix=""):
    rng = np.random.default_rng(5)
    tensors = {}
    for module in modules:
        _, out, width = MODULES[module]
        rank = (ranks or {}).get(module, 2)
        name = prefix + module
        tensors[f"{name}.lora_A{infix}.weight"] = rng.standard_normal((rank, width)).astype(np.float32)
        tensors[f"{name}.lora_B{infix}.weight"] = rng.standard_normal((out, rank)).astype(np.float32)
    return tensors


def test_names_settings_and_values(write_adapter, names):
    tensors = factors()
    delta = from_peft(read_delta(write_adapter(tensors)), names, PREFIXES)
    assert (delta.origin, delta.algo) == ("peft", "lora") and len(delta.digest) == 64
    assert delta.config == {
        "rank": 2,
        "alpha": 4.0,
        "dropout": 0.1,
        "variant": "lora",
        "target": ["layers.0.attn.q", "layers.0.mlp.up", "layers.1.attn.q", "layers.1.mlp.up"],
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    assert set(delta.tensors) == {f"{path}.{leaf}" for path in PATHS for leaf in (LORA_A, LORA_B)}
    for module, (path, _, _) in MODULES.items():
        np.testing.assert_array_equal(
            delta.tensors[f"{path}.{LORA_A}"], tensors[f"base_model.model.{module}.lora_A.weight"]
        )
        np.testing.assert_array_equal(
            delta.tensors[f"{path}.{LORA_B}"], tensors[f"base_model.model.{module}.lora_B.weight"]
        )
    assert LoraConfig(**delta.config).site("layers.0.attn.q") == (2, 2.0)


def test_rslora(write_adapter, names):
    delta = from_peft(read_delta(write_adapter(factors(), use_rslora=True)), names)
    assert delta.config["variant"] == "rslora"
    assert LoraConfig(**delta.config).site("layers.0.attn.q")[1] == pytest.approx(4 / np.sqrt(2))


def test_the_adapters_name_may_stand_in_the_names(write_adapter, names):
    delta = from_peft(read_delta(write_adapter(factors(infix=".default"))), names)
    assert len(delta.tensors) == 8


def test_an_adapter_of_the_headless_model(write_adapter, names):
    """Trained on the inner model: module paths lack "model."; the config's patterns speak of those shorter paths."""
    tensors = {k.replace("model.model.", "model."): v for k, v in factors(ranks={"model.h.1.mlp.c_fc": 5}).items()}
    assert "base_model.model.h.0.attn.query.lora_A.weight" in tensors
    folder = write_adapter(
        tensors, target_modules=r"h\.\d\.(attn\.query|mlp\.c_fc)", rank_pattern={r"^h\.1\.mlp\.c_fc": 5}
    )
    delta = from_peft(read_delta(folder), names, PREFIXES)
    assert delta.config["rank_pattern"] == {"layers.1.mlp.up": 5} and len(delta.config["target"]) == 4


def test_bfloat16_adapter(tmp_path, write_adapter, names):
    folder = write_adapter(factors())
    values = load_file(folder / "adapter_model.safetensors")
    entries = [TensorEntry(n, v.shape, "bfloat16", lambda v=v: v) for n, v in values.items()]
    write_safetensors(folder / "adapter_model.safetensors", entries)
    delta = from_peft(read_delta(folder), names)
    got = delta.tensors["layers.0.attn.q." + LORA_A]
    assert got.dtype == np.float32
    np.testing.assert_allclose(
        got, values["base_model.model.model.h.0.attn.query.lora_A.weight"], rtol=2**-8, atol=1e-6
    )


HEAD = {"weight": np.ones((3, 6), np.float32), "bias": np.arange(3, dtype=np.float32)}


@pytest.mark.parametrize("infix", ["", ".modules_to_save", ".modules_to_save.default"])
def test_heads_in_every_spelling(write_adapter, names, infix):
    head = {f"base_model.model.classifier{infix}.{k}": v for k, v in HEAD.items()}
    folder = write_adapter({**factors(), **head}, modules_to_save=["classifier", "score"])
    raw = read_delta(folder)
    assert trained_classes(raw) == 3
    delta = from_peft(raw, names)
    assert trained_classes(delta) == 3
    np.testing.assert_array_equal(delta.tensors["classifier.bias"], HEAD["bias"])
    np.testing.assert_array_equal(delta.tensors["classifier.weight"], HEAD["weight"])


def test_no_head(write_adapter):
    assert trained_classes(read_delta(write_adapter(factors()))) is None


def test_biases_and_the_wrappers_copies(write_adapter, names):
    """bias="all" stores a head's bias twice, and the untrained original beside it."""
    bias = np.full(6, 0.5, np.float32)
    folder = write_adapter(
        {
            **factors(),
            "base_model.model.model.h.0.attn.query.base_layer.bias": bias,
            "base_model.model.classifier.modules_to_save.bias": HEAD["bias"],
            "base_model.model.classifier.original_module.bias": np.zeros(3, np.float32),
            **{f"base_model.model.classifier.{k}": v for k, v in HEAD.items()},
        },
        bias="all",
        modules_to_save=["classifier"],
    )
    delta = from_peft(read_delta(folder), names)
    assert set(delta.tensors) - {f"{p}.{leaf}" for p in PATHS for leaf in (LORA_A, LORA_B)} == {
        "layers.0.attn.q.bias",
        "classifier.weight",
        "classifier.bias",
    }
    np.testing.assert_array_equal(delta.tensors["layers.0.attn.q.bias"], bias)


def test_two_values_for_one_head(write_adapter, names):
    folder = write_adapter(
        {
            **factors(),
            "base_model.model.classifier.modules_to_save.bias": HEAD["bias"] + 1,
            **{f"base_model.model.classifier.{k}": v for k, v in HEAD.items()},
        }
    )
    with pytest.raises(DeltaError, match="are the same parameter, with other values"):
        from_peft(read_delta(folder), names)


def test_a_whole_conv1d_matrix_is_turned(write_adapter, names):
    stored = np.arange(48, dtype=np.float32).reshape(6, 8)
    folder = write_adapter(
        {
            **factors(["model.h.0.attn.query", "model.h.1.attn.query"]),
            "base_model.model.model.h.0.mlp.c_fc.weight": stored,
        },
        target_modules=["query"],
        modules_to_save=["h.0.mlp.c_fc"],
    )
    delta = from_peft(read_delta(folder), names)
    assert delta.shapes["layers.0.mlp.up.weight"] == (8, 6)
    np.testing.assert_array_equal(delta.tensors["layers.0.mlp.up.weight"], stored.T)


@pytest.mark.parametrize(
    ("rank_pattern", "alpha_pattern", "ranks", "want_ranks", "want_alphas"),
    [
        # Keys are regular expressions over the end of the path, the first that matches counts.
        ({"query": 3}, {"c_fc": 9}, [3, 2, 3, 2], {0: 3, 2: 3}, {1: 9, 3: 9}),
        ({r"h\.1\..*": 4}, {r"^model\.h\.0\.attn\.query": 1}, [2, 2, 4, 4], {2: 4, 3: 4}, {0: 1}),
        ({"h.0.mlp.c_fc": 1, "c_fc": 5}, {"uery": 7}, [2, 1, 2, 5], {1: 1, 3: 5}, {}),
    ],
)
def test_rank_and_alpha_patterns(write_adapter, names, rank_pattern, alpha_pattern, ranks, want_ranks, want_alphas):
    order = ["model.h.0.attn.query", "model.h.0.mlp.c_fc", "model.h.1.attn.query", "model.h.1.mlp.c_fc"]
    tensors = factors(ranks=dict(zip(order, ranks, strict=True)))
    folder = write_adapter(tensors, rank_pattern=rank_pattern, alpha_pattern=alpha_pattern)
    config = from_peft(read_delta(folder), names).config
    paths = config["target"]
    assert config["rank_pattern"] == {paths[i]: r for i, r in want_ranks.items()}
    assert config["alpha_pattern"] == {paths[i]: a for i, a in want_alphas.items()}


@pytest.mark.parametrize(
    "targeting",
    [
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.(query|c_fc)"},
        {"target_modules": ["query", "value", "c_fc"], "exclude_modules": ["value"]},
        {"target_modules": ["query", "value", "c_fc"], "exclude_modules": ".*value"},
        {"target_modules": [m for m in MODULES]},
    ],
)
def test_targets_in_every_form(write_adapter, names, targeting):
    assert len(from_peft(read_delta(write_adapter(factors(), **targeting)), names).config["target"]) == 4


@pytest.mark.parametrize(
    "layers",
    [{"layers_to_transform": [1]}, {"layers_to_transform": 1}, {"layers_to_transform": [1], "layers_pattern": "h"}],
)
def test_layers_to_transform(write_adapter, names, layers):
    tensors = factors(["model.h.1.attn.query", "model.h.1.mlp.c_fc"])
    delta = from_peft(read_delta(write_adapter(tensors, **layers)), names)
    assert delta.config["target"] == ["layers.1.attn.q", "layers.1.mlp.up"]
    with pytest.raises(DeltaError, match=r"model\.h\.0\.attn\.query: has tensors, but target_modules does not name it"):
        from_peft(read_delta(write_adapter(factors(), "all", **layers)), names)


UNSUPPORTED = {
    "dora": ({"use_dora": 1}, "use_dora: must be true or false, not 1"),
    "lora_bias": ({"lora_bias": "yes"}, "lora_bias: must be true or false"),
    "qalora": ({"use_qalora": True}, "use_qalora: True is not supported"),
    "tokens": ({"trainable_token_indices": [1.5]}, r"trainable_token_indices: must be token ids"),
    "parameters": ({"target_parameters": ["experts"]}, "target_parameters: "),
    "replication": ({"layer_replication": [[0, 2]]}, "layer_replication: "),
    "activated": ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens: "),
    "megatron": ({"megatron_config": {"a": 1}}, "megatron_config: "),
    "from the future": ({"use_hyperlora": {"depth": 2}}, r"use_hyperlora: \{'depth': 2\} is not supported"),
    "pissa": (
        {"init_lora_weights": "pissa_niter_4"},
        "init_lora_weights: 'pissa_niter_4' is not supported .*change the base's own weights",
    ),
    "corda": ({"init_lora_weights": "corda"}, "init_lora_weights: 'corda' is not supported"),
    "task": ({"task_type": "QUESTION_ANS"}, "task_type: 'QUESTION_ANS' is not supported"),
    "bias": ({"bias": "some"}, "bias: 'some' is none of none, all, lora_only"),
    "r": ({"r": 0}, "r: must be a positive whole number, not 0"),
    "r bool": ({"r": True}, "r: must be a positive whole number, not True"),
    "alpha": ({"lora_alpha": "16"}, "lora_alpha: must be a number, not '16'"),
    "rslora": ({"use_rslora": "yes"}, "use_rslora: must be true or false"),
    "pattern": ({"rank_pattern": {"q": 1.5}}, "rank_pattern: must be a map of patterns to whole numbers"),
    "pattern regex": (
        {"alpha_pattern": {"q(": 2}},
        r"alpha_pattern: '\(\.\*\\\\\.\)\?\(q\(\)\$' is not a regular expression",
    ),
    "regex": ({"target_modules": "a(b"}, "target_modules: 'a\\(b' is not a regular expression"),
    "targets": ({"target_modules": [1]}, r"target_modules: must be a list of names, not \[1\]"),
    "layers": ({"layers_to_transform": ["1"]}, "layers_to_transform: must be layer numbers"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_fields_that_are_refused(write_adapter, names, case):
    changes, message = UNSUPPORTED[case]
    folder = write_adapter(factors(), **changes)
    with pytest.raises(DeltaError, match=message) as caught:
        from_peft(read_delta(folder), names)
    assert str(folder / "adapter_config.json") in caught.value.message and caught.value.hint


def test_all_refused_fields_are_told_at_once(write_adapter, names):
    with pytest.raises(DeltaError) as caught:
        from_peft(read_delta(write_adapter(factors(), use_dora="yes", r=-1, lora_bias=True)), names)
    assert all(f"\n  {key}: " in caught.value.message for key in ("use_dora", "lora_bias", "r"))


@pytest.mark.parametrize("kind", ["BOFT", "HRA", None, 3])
def test_other_kinds(write_adapter, names, kind):
    with pytest.raises(DeltaError, match=f"peft_type {kind!r} is not supported"):
        from_peft(read_delta(write_adapter(factors(), peft_type=kind)), names)


def test_every_field_of_the_installed_default_is_harmless():
    """What peft 0.21 writes for a plain adapter (tests/checkpoint/plain_adapter_config.json, as peft saved it)."""
    raw = {
        "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
        "base_model_name_or_path": None, "bias": "none", "corda_config": None, "ensure_weight_tying": False,
        "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "kasa_config": None, "layer_replication": None, "layers_pattern": None,
        "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 8, "lora_bias": False, "lora_dropout": 0.0,
        "lora_ga_config": None, "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None,
        "monteclora_config": None, "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 4,
        "rank_pattern": {}, "revision": None, "target_modules": ["v_proj", "q_proj"], "target_parameters": None,
        "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_bdlora": None, "use_dora": False,
        "use_qalora": False, "use_rslora": False, "velora_config": None,
    }  # fmt: skip
    config = parse_lora_config("adapter_config.json", raw)
    assert (config.ranks.rank, config.ranks.alpha, config.targets.targets, config.targets.saved_modules) == (
        4,
        8.0,
        ("v_proj", "q_proj"),
        (),
    )


def changed(**tensors):
    return {k.replace("__", "."): v for k, v in tensors.items()}


B = "base_model.model."
MISFITS = {
    "alone": (lambda t: t.pop(B + "model.h.0.attn.query.lora_B.weight"), r"model\.h\.0\.attn\.query: has lora_A alone"),
    "shapes": (
        lambda t: t.update({B + "model.h.0.attn.query.lora_B.weight": np.ones((6, 3), np.float32)}),
        r"lora_A \[2, 6\] and lora_B \[6, 3\] do not multiply",
    ),
    "rank": (
        lambda t: t.update(factors(["model.h.0.attn.query"], {"model.h.0.attn.query": 5})),
        "its rank is 5, the config says 2",
    ),
    "unknown layer": (
        lambda t: t.update({B + "model.h.7.attn.query.lora_A.weight": np.ones((2, 6), np.float32)}),
        r"lora_A of model\.h\.7\.attn\.query: the base has no such layer\. Did you mean",
    ),
    "unknown tensor": (
        lambda t: t.update({B + "head.weight": np.ones((2, 6), np.float32)}),
        r"head\.weight: the base has no such layer",
    ),
    "no prefix": (lambda t: t.update({"w": np.ones(2, np.float32)}), r"w: does not begin with base_model\.model\."),
    "embedding": (
        lambda t: t.update({B + "model.embed.lora_embedding_A": np.ones((2, 10), np.float32)}),
        r"lora_embedding_A: model\.embed is a linear layer",
    ),
    "dora vector": (
        lambda t: t.update({B + "model.h.0.attn.query.lora_magnitude_vector": np.ones(6, np.float32)}),
        "lora_magnitude_vector: has magnitudes, but use_dora is off",
    ),
    "tied head": (
        lambda t: t.update({B + "lm_head.lora_A.weight": np.ones((2, 6), np.float32)}),
        "lm_head: has lora_A alone",
    ),
    "tied copies": (
        lambda t: t.update(
            {B + f"{m}.weight": np.full((10, 6), len(m), np.float32) for m in ("model.embed", "lm_head")}
        ),
        r"model\.embed\.weight and .*lm_head\.weight: differ, and peft would load both into one matrix",
    ),
    "incomplete": (
        lambda t: [t.pop(f"{B}model.h.1.mlp.c_fc.lora_{f}.weight") for f in "AB"],
        r"model\.h\.1\.mlp\.c_fc: target_modules names it, but the file lacks its matrices",
    ),
    "nan": (
        lambda t: t.update({B + "model.h.0.attn.query.lora_B.weight": np.full((6, 2), np.nan, np.float32)}),
        r"layers\.0\.attn\.q\.mindpet_delta_lora_b holds NaN",
    ),
    "empty": (lambda t: t.clear() or t.update({B + "classifier.bias": HEAD["bias"]}), "lacks its matrices"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_tensors_that_do_not_fit(write_adapter, names, case):
    tensors = factors()
    change, message = MISFITS[case]
    change(tensors)
    with pytest.raises(DeltaError, match=message):
        from_peft(read_delta(write_adapter(tensors)), names)


def test_incomplete_head_and_untargeted_layer(write_adapter, names):
    half = {B + "classifier.weight": HEAD["weight"]}
    with pytest.raises(DeltaError, match=r"classifier\.bias: modules_to_save names it, but the file lacks it"):
        from_peft(read_delta(write_adapter({**factors(), **half}, modules_to_save=["classifier"])), names)
    with pytest.raises(DeltaError, match=r"c_fc: has tensors, but target_modules does not name it"):
        from_peft(read_delta(write_adapter(factors(), "other", target_modules=["query"])), names)
    with pytest.raises(DeltaError, match=r"holds no lora_A and lora_B tensors"):
        from_peft(
            read_delta(write_adapter({B + "classifier.bias": HEAD["bias"]}, "none", target_modules="all-linear")), names
        )


class TestExport:
    def adapter(self, write_adapter, names, tensors=None, **config):
        return from_peft(read_delta(write_adapter(tensors or factors(), **config)), names, PREFIXES)

    def test_what_is_written(self, tmp_path, write_adapter, names):
        tensors = {**factors(ranks={"model.h.1.mlp.c_fc": 5}), **{f"{B}classifier.{k}": v for k, v in HEAD.items()}}
        settings = {"use_rslora": True, "rank_pattern": {"h.1.mlp.c_fc": 5}, "alpha_pattern": {"query": 6}}
        delta = self.adapter(write_adapter, names, tensors, modules_to_save=["classifier"], **settings)
        write_peft(delta, names, tmp_path / "out", task="classify", base="some/base")
        config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        assert config["peft_type"] == "LORA" and config["task_type"] == "SEQ_CLS" and config["inference_mode"] is True
        assert config["r"] == 2 and config["lora_alpha"] == 4 and isinstance(config["lora_alpha"], int)
        assert config["use_rslora"] is True and config["fan_in_fan_out"] is True and config["bias"] == "none"
        assert config["target_modules"] == ["c_fc", "query"] and config["modules_to_save"] == ["classifier"]
        assert config["rank_pattern"] == {r"^model\.h\.1\.mlp\.c_fc": 5}
        assert config["alpha_pattern"] == {rf"^model\.h\.{i}\.attn\.query": 6 for i in (0, 1)}
        assert config["base_model_name_or_path"] == "some/base"
        written = load_file(tmp_path / "out" / "adapter_model.safetensors")
        assert written.keys() == tensors.keys()
        for name, want in tensors.items():
            np.testing.assert_array_equal(written[name], want)
        again = from_peft(read_delta(tmp_path / "out"), names)
        assert (again.digest, again.config) == (delta.digest, delta.config)

    def test_targets_that_share_leaf_names_with_others_are_spelt_out(self, tmp_path, write_adapter, names):
        delta = self.adapter(write_adapter, names, factors(["model.h.0.attn.query"]), target_modules=["h.0.attn.query"])
        write_peft(delta, names, tmp_path / "out")
        config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        assert config["target_modules"] == ["model.h.0.attn.query"]
        assert config["task_type"] is None and config["fan_in_fan_out"] is False
        assert from_peft(read_delta(tmp_path / "out"), names).config == delta.config

    def test_biases_and_whole_matrices(self, tmp_path, write_adapter, names):
        delta = self.adapter(
            write_adapter,
            names,
            {
                **factors(["model.h.0.attn.query", "model.h.1.attn.query"]),
                f"{B}model.h.0.attn.query.base_layer.bias": np.ones(6, np.float32),
                f"{B}model.h.0.mlp.c_fc.weight": np.arange(48, dtype=np.float32).reshape(6, 8),
            },
            target_modules=["query"],
            bias="lora_only",
        )
        write_peft(delta, names, tmp_path / "out", task="lm")
        written = load_file(tmp_path / "out" / "adapter_model.safetensors")
        assert f"{B}model.h.0.attn.query.base_layer.bias" in written
        assert written[f"{B}model.h.0.mlp.c_fc.weight"][0, 1] == 1
        config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        assert (config["bias"], config["task_type"]) == ("lora_only", "CAUSAL_LM")
        assert config["modules_to_save"] == ["model.h.0.mlp.c_fc"]
        assert from_peft(read_delta(tmp_path / "out"), names).digest == delta.digest

    def test_what_peft_cannot_hold(self, tmp_path, write_adapter, names, make_delta):
        part = make_delta(
            {"classifier.weight": HEAD["weight"], "layers.0.attn.q." + LORA_A: np.ones((2, 6), np.float32)}
        )
        with pytest.raises(DeltaError, match=r"lacks classifier\.bias, though it trains its module"):
            write_peft(part, names, tmp_path / "out")
        with pytest.raises(DeltaError, match="is a full delta, which has no peft form"):
            write_peft(make_delta({"norm.weight": np.ones(6, np.float32)}, "full"), names, tmp_path / "out")
        with pytest.raises(DeltaError, match=r"layers\.0\.attn\.x\.mindpet_delta_lora_a has no Hugging Face name"):
            write_peft(make_delta({"layers.0.attn.x." + LORA_A: np.ones((2, 6), np.float32)}), names, tmp_path / "out")
        delta = self.adapter(write_adapter, names)
        with pytest.raises(OutputError, match="is not an empty folder"):
            write_peft(delta, names, tmp_path / "adapter")
        assert not (tmp_path / "out").exists()


def test_petruns_own_and_converted_ones_pass_unchanged(make_delta, write_adapter, names):
    delta = make_delta({"norm.weight": np.ones(6, np.float32)}, "full")
    assert to_net_names(delta, names) is delta
    converted = to_net_names(read_delta(write_adapter(factors())), names)
    assert to_net_names(converted, names) is converted


def of_the_reference(shared, family, method):
    from petrun.models.families import FAMILIES

    case = shared / "oracle" / "cases" / family
    record = next(f for f in FAMILIES.values() if family in f.model_types)
    parsed = record.parse(json.loads((case / "base" / "config.json").read_text()))
    names, sites = record.names(parsed), record.sites(parsed)
    return case, names, sites, to_net_names(read_delta(case / method), names, record.prefixes, sites=sites)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
def test_adapters_of_the_reference(shared, family, method):
    """Folded into the base, peft's own files give peft's own merged weights."""
    case, names, _, delta = of_the_reference(shared, family, method)
    update = merge(LoraConfig(**delta.config), delta.tensors)
    base, want = open_tensors(case / "base"), open_tensors(case / method / "merged.safetensors")
    moved = 0
    for ours, stored in names.items():
        if ours in delta.tensors:
            merged = delta.tensors[ours]
        else:
            values = base.read(stored.name)
            merged = update(ours, values.T if stored.transpose else values)
            merged = merged.T if stored.transpose else merged
            moved += not np.array_equal(merged, values)
        np.testing.assert_allclose(merged, want.read(stored.name), atol=1e-5, rtol=0)
    assert moved == len(delta.config["target"]) == (2 if family == "gpt2" else 4)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "qwen2"])
@pytest.mark.parametrize(
    "method", ["lora", "rslora", "dora", "adalora", "ia3", "prefix", "ptuning2", "prompt", "ptuning"]
)
def test_peft_computes_the_reference_from_what_is_exported(tmp_path, shared, family, method):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    case, names, sites, delta = of_the_reference(shared, family, method)
    write_peft(delta, names, tmp_path / "adapter", task="classify" if family == "bert" else "lm", sites=sites)
    kind = "AutoModelForSequenceClassification" if family == "bert" else "AutoModelForCausalLM"
    base = getattr(transformers, kind).from_pretrained(case / "base")
    model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    batch = load_file(case / "batch.safetensors")
    with torch.no_grad():
        inputs = {k: torch.from_numpy(batch[k]) for k in ("input_ids", "attention_mask")}
        try:
            logits = model(**inputs).logits.numpy()
        except ValueError as error:
            if "does not support past key values" in str(error):
                pytest.skip(
                    f"peft {peft.__version__} puts no prefix into the BERT of transformers {transformers.__version__}"
                )
            raise
    want = load_file(case / method / "out.safetensors")["logits"]
    seen = np.ones(len(want), bool) if family == "bert" else batch["attention_mask"].astype(bool)
    if family != "bert":
        # peft gives the logits of virtual tokens in the row as well, before the row's own.
        logits, want = logits[:, -seen.shape[1] :], want[:, -seen.shape[1] :]
    np.testing.assert_allclose(logits[seen], want[seen], rtol=0, atol=1e-5)
