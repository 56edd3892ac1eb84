"""AdaLoRA adapters of peft: names, the triplets that are left, what does not fit, and the way back."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from petrun.checkpoint.delta import read_delta
from petrun.delta.adalora import ADALORA_A, ADALORA_B, ADALORA_E, ADALORA_KEEP, AdaLoraConfig, merge
from petrun.errors import DeltaError
from petrun.interop.convert import from_peft, write_peft
from tests.checkpoint.toy_family import shape_of

B = "base_model.model."
MODULES = {"layers.0.attn.q": "model.h.0.attn.query", "layers.1.mlp.up": "model.h.1.mlp.c_fc"}
KEPT = {"layers.0.attn.q": [True, False, True], "layers.1.mlp.up": [False, True, False]}
PATTERN = {f"{MODULES[path]}.lora_E": flags for path, flags in KEPT.items()}
SETTINGS = {
    "peft_type": "ADALORA", "init_r": 3, "target_r": 2, "lora_alpha": 4, "tinit": 1, "tfinal": 2, "deltaT": 1, "total_step": 9,
    "beta1": 0.85, "beta2": 0.85, "orth_reg_weight": 0.5, "target_modules": list(MODULES.values()), "r": 8,
}  # fmt: skip


def triplets(path, count, seed=0):
    out, width = shape_of(f"{path}.weight")
    rng = np.random.default_rng([seed, len(path)])
    return [rng.normal(size=shape).astype(np.float32) for shape in ((count, width), (count, 1), (out, count))]


def in_the_file(counts, infix=""):
    found = {}
    for path, count in counts.items():
        for leaf, values in zip("AEB", triplets(path, count), strict=True):
            found[f"{B}{MODULES[path]}.lora_{leaf}{infix}"] = values
    return found


def change_of(path, count):
    """What peft adds to the weight: B (A * E) * alpha / (init_r + 1e-5)."""
    a, e, b = triplets(path, count)
    return b @ (a * e) * 4 / (3 + 1e-5)


@pytest.mark.parametrize("infix", ["", ".default"])
@pytest.mark.parametrize("pattern", [None, PATTERN], ids=["all", "left"])
def test_what_is_read_changes_the_weights_as_peft_does(write_adapter, names, infix, pattern):
    counts = {path: sum(flags) if pattern else 3 for path, flags in KEPT.items()}
    theirs = {f"{name}{infix}": flags for name, flags in pattern.items()} if pattern else None
    folder = write_adapter(in_the_file(counts, infix), **{**SETTINGS, "rank_pattern": theirs})
    delta = from_peft(read_delta(folder), names)
    assert delta.algo == "adalora" and len(delta.digest) == 64
    assert delta.config == {"rank": 2, "init_rank": 3, "alpha": 4.0, "dropout": 0.1, "target": list(MODULES)}
    update = merge(AdaLoraConfig(**delta.config), delta.tensors)
    for path, count in counts.items():
        out, width = shape_of(f"{path}.weight")
        want = {ADALORA_A: (3, width), ADALORA_E: (3,), ADALORA_B: (out, 3), ADALORA_KEEP: (3,)}
        assert {leaf: delta.shapes[f"{path}.{leaf}"] for leaf in want} == want
        keep = KEPT[path] if pattern else [True] * 3
        np.testing.assert_array_equal(delta.tensors[f"{path}.{ADALORA_KEEP}"], np.array(keep, np.float32))
        merged = update(f"{path}.weight", np.zeros((out, width), np.float32))
        np.testing.assert_allclose(merged, change_of(path, count), rtol=1e-5, atol=1e-6)


def test_heads_come_along(write_adapter, names):
    head = {"weight": np.full((3, 6), 0.5, np.float32), "bias": np.arange(3, dtype=np.float32)}
    tensors = {**in_the_file(dict.fromkeys(MODULES, 3)), **{f"{B}classifier.{k}": v for k, v in head.items()}}
    delta = from_peft(read_delta(write_adapter(tensors, **SETTINGS, modules_to_save=["classifier"])), names)
    np.testing.assert_array_equal(delta.tensors["classifier.bias"], head["bias"])


def test_what_training_left_at_rank_0(write_adapter, names):
    """A layer may lose all its triplets."""
    pattern = {**PATTERN, f"{MODULES['layers.1.mlp.up']}.lora_E": [False] * 3}
    tensors = in_the_file({"layers.0.attn.q": 2, "layers.1.mlp.up": 0})
    delta = from_peft(read_delta(write_adapter(tensors, **SETTINGS, rank_pattern=pattern)), names)
    base = np.ones(shape_of("layers.1.mlp.up.weight"), np.float32)
    np.testing.assert_array_equal(
        merge(AdaLoraConfig(**delta.config), delta.tensors)("layers.1.mlp.up.weight", base), base
    )


def test_alpha_that_is_not_positive_means_no_scale(write_adapter, names):
    """peft divides by the rank and multiplies by it."""
    folder = write_adapter(in_the_file(dict.fromkeys(MODULES, 3)), **{**SETTINGS, "lora_alpha": 0})
    assert AdaLoraConfig(**from_peft(read_delta(folder), names).config).scale == pytest.approx(1.0, abs=1e-5)


FIRST = f"{B}{MODULES['layers.0.attn.q']}"
MISFITS = {
    "lacking": (lambda t: t.pop(f"{FIRST}.lora_E"), {}, r"attn\.query: lacks lora_E"),
    "count": (lambda t: None, {"rank_pattern": {**PATTERN, f"{MODULES['layers.0.attn.q']}.lora_E": [True, False, False]}},
              "has 2 triplets, the config says 1"),
    "shapes": (lambda t: t.update({f"{FIRST}.lora_E": np.ones((3, 1), np.float32)}), {}, "do not multiply"),
    "pattern": (lambda t: None, {"rank_pattern": {"q": [True]}}, "rank_pattern: must be a map of layers to lists of 3 times"),
    "unknown layer": (lambda t: t.update({f"{B}model.h.5.attn.query.lora_A": np.ones((3, 6), np.float32)}), {},
                      r"lora_A of model\.h\.5\.attn\.query: the base has no such layer"),
    "twice": (lambda t: t.update({f"{FIRST}.lora_A.default": np.ones((2, 6), np.float32)}), {}, "are the same matrix"),
    "incomplete": (lambda t: [t.pop(f"{FIRST}.lora_{f}") for f in "AEB"], {}, "target_modules names it, but the file lacks"),
    "untargeted": (lambda t: None, {"target_modules": ["query"]}, r"c_fc: has tensors, but target_modules does not name it"),
    "empty": (lambda t: t.clear() or t.update({f"{B}classifier.bias": np.ones(3, np.float32)}), {"target_modules": []},
              "it holds no lora_A, lora_E and lora_B tensors"),
    "nan": (lambda t: t.update({f"{FIRST}.lora_E": np.full((2, 1), np.nan, np.float32)}), {}, "_adalora_e holds NaN"),
    "unknown field": (lambda t: None, {"use_dora": True}, "use_dora: True is not supported"),
    "init_r": (lambda t: None, {"init_r": 0}, "init_r: must be a positive whole number, not 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit(write_adapter, names, case):
    change, settings, message = MISFITS[case]
    tensors = in_the_file({path: sum(flags) for path, flags in KEPT.items()})
    change(tensors)
    with pytest.raises(DeltaError, match=message):
        from_peft(read_delta(write_adapter(tensors, **{**SETTINGS, "rank_pattern": PATTERN, **settings})), names)


def test_what_was_given_up_does_not_go_out(tmp_path, make_delta, write_adapter, names):
    arrays = {}
    for path, flags in KEPT.items():
        a, e, b = triplets(path, 3)
        arrays[f"{path}.{ADALORA_A}"], arrays[f"{path}.{ADALORA_B}"] = a, b
        arrays[f"{path}.{ADALORA_E}"] = e[:, 0]
        arrays[f"{path}.{ADALORA_KEEP}"] = np.array(flags, np.float32)
    config = {"rank": 2, "alpha": 4.0, "target": list(MODULES)}
    delta = make_delta(arrays, "adalora", **config)
    write_peft(delta, names, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert written["peft_type"] == "ADALORA" and written["rank_pattern"] == PATTERN
    assert (written["init_r"], written["target_r"], written["lora_alpha"]) == (3, 2, 4)
    assert written["tinit"] < written["total_step"] - written["tfinal"], "peft refuses to load anything else"
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {name: values.shape for name, values in found.items()} == {
        f"{B}model.h.0.attn.query.lora_A": (2, 6),
        f"{B}model.h.0.attn.query.lora_E": (2, 1),
        f"{B}model.h.0.attn.query.lora_B": (6, 2),
        f"{B}model.h.1.mlp.c_fc.lora_A": (1, 6),
        f"{B}model.h.1.mlp.c_fc.lora_E": (1, 1),
        f"{B}model.h.1.mlp.c_fc.lora_B": (8, 1),
    }
    again = from_peft(read_delta(tmp_path / "out"), names)
    updates = [merge(AdaLoraConfig(**d.config), d.tensors) for d in (delta, again)]
    for path in MODULES:
        base = np.ones(shape_of(f"{path}.weight"), np.float32)
        merged = [update(f"{path}.weight", base) for update in updates]
        np.testing.assert_allclose(merged[1], merged[0], rtol=1e-6, atol=1e-6)
        assert np.abs(merged[0] - base).max() > 0.01
