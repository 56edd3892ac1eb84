"""DoRA and PiSSA in peft's form: magnitudes in and out, rsLoRA's scale with them, and PiSSA as a plain LoRA of twice the rank."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from petrun.algebra.pissa import as_plain_lora
from petrun.checkpoint.delta import read_delta
from petrun.delta.lora import LORA_A, LORA_A0, LORA_B, LORA_B0, LORA_M, LoraConfig, merge
from petrun.errors import DeltaError
from petrun.interop.convert import from_peft, write_peft
from tests.checkpoint.toy_family import lora_arrays, shape_of

B = "base_model.model."
MODULES = {"layers.0.attn.q": "model.h.0.attn.query", "layers.1.mlp.up": "model.h.1.mlp.c_fc"}
TARGETS = list(MODULES.values())


def arrays(variant):
    """A delta's tensors in the net's names."""
    rng = np.random.default_rng(1)
    found = lora_arrays(MODULES, {"layers.1.mlp.up": 3})
    for path in MODULES:
        if variant == "dora":
            found[f"{path}.{LORA_M}"] = 1 + rng.random(shape_of(f"{path}.weight")[0]).astype(np.float32)
        else:
            for initial, trained in ((LORA_A0, LORA_A), (LORA_B0, LORA_B)):
                found[f"{path}.{initial}"] = rng.normal(size=found[f"{path}.{trained}"].shape).astype(np.float32)
    return found


def in_the_file(magnitude="lora_magnitude_vector"):
    found = {}
    for name, values in arrays("dora").items():
        path, _, leaf = name.rpartition(".")
        theirs = {LORA_A: "lora_A.weight", LORA_B: "lora_B.weight", LORA_M: magnitude}[leaf]
        found[f"{B}{MODULES[path]}.{theirs}"] = values
    return found


@pytest.mark.parametrize(
    "spelling",
    [
        "lora_magnitude_vector",
        "lora_magnitude_vector.weight",
        "lora_magnitude_vector.default.weight",
        "lora_magnitude_vector.default",
    ],
)
def test_magnitudes_in_every_spelling(write_adapter, names, spelling):
    folder = write_adapter(
        in_the_file(spelling), use_dora=True, target_modules=TARGETS, rank_pattern={r"h\.1\.mlp\.c_fc": 3}
    )
    delta = from_peft(read_delta(folder), names)
    assert delta.config["variant"] == "dora" and delta.config["rank_pattern"] == {"layers.1.mlp.up": 3}
    want = arrays("dora")
    assert set(delta.tensors) == set(want)
    for name, values in want.items():
        np.testing.assert_array_equal(delta.tensors[name], values)
    assert LoraConfig(**delta.config).site("layers.0.attn.q") == (2, 2.0)


def test_dora_with_rsloras_scale(write_adapter, names):
    folder = write_adapter(
        in_the_file(), use_dora=True, use_rslora=True, target_modules=TARGETS, rank_pattern={r"h\.1\.mlp\.c_fc": 3}
    )
    config = LoraConfig(**from_peft(read_delta(folder), names).config)
    assert config.variant == "dora"
    assert config.site("layers.0.attn.q")[1] == pytest.approx(4 / np.sqrt(2))
    assert config.site("layers.1.mlp.up")[1] == pytest.approx(4 / np.sqrt(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{B}{TARGETS[0]}.lora_magnitude_vector"), r"attn\.query: lacks lora_magnitude_vector"),
        (
            lambda t: t.update({f"{B}{TARGETS[0]}.lora_magnitude_vector": np.ones(5, np.float32)}),
            r"attn\.query: it has 6 outputs, magnitudes \[5\]",
        ),
        (
            lambda t: t.update({f"{B}{TARGETS[0]}.lora_magnitude_vector.weight": np.ones(6, np.float32)}),
            "are the same matrix",
        ),
        (
            lambda t: t.update({f"{B}model.h.5.attn.query.lora_magnitude_vector": np.ones(6, np.float32)}),
            r"lora_magnitude_vector of model\.h\.5\.attn\.query: the base has no such layer",
        ),
    ],
    ids=["lacking", "shape", "twice", "unknown layer"],
)
def test_magnitudes_that_do_not_fit(write_adapter, names, change, message):
    tensors = in_the_file()
    change(tensors)
    folder = write_adapter(tensors, use_dora=True, target_modules=TARGETS, rank_pattern={r"h\.1\.mlp\.c_fc": 3})
    with pytest.raises(DeltaError, match=message):
        from_peft(read_delta(folder), names)


def test_dora_goes_out_as_it_came_in(tmp_path, make_delta, names):
    delta = make_delta(arrays("dora"), variant="dora", target=list(MODULES), rank_pattern={"layers.1.mlp.up": 3})
    write_peft(delta, names, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["use_dora"] is True and config["r"] == 2
    found, want = load_file(tmp_path / "out" / "adapter_model.safetensors"), in_the_file()
    assert set(found) == set(want)
    for name, values in want.items():
        np.testing.assert_array_equal(found[name], values)
    again = from_peft(read_delta(tmp_path / "out"), names)
    assert again.config["variant"] == "dora" and set(again.tensors) == set(delta.tensors)


def test_pissa_is_a_plain_lora_of_twice_the_rank(tmp_path, make_delta, names):
    """Exactly: the same scale, and the same merged weights to the last bits that the order of summing leaves open."""
    settings = {"rank_pattern": {"layers.1.mlp.up": 3}, "alpha_pattern": {"layers.0.attn.q": 5.0}, "dropout": 0.1}
    delta = make_delta(arrays("pissa"), variant="pissa", target=list(MODULES), **settings)
    plain = as_plain_lora(delta)
    ours, theirs = LoraConfig(**delta.config), LoraConfig(**plain.config)
    assert theirs.variant == "lora" and theirs.dropout == 0.1
    for path, rank in (("layers.0.attn.q", 2), ("layers.1.mlp.up", 3)):
        assert theirs.site(path) == (2 * rank, ours.site(path)[1])
        assert plain.tensors[f"{path}.{LORA_A}"].shape[0] == 2 * rank
        base = np.random.default_rng(2).normal(size=shape_of(f"{path}.weight")).astype(np.float32)
        want = merge(ours, delta.tensors)(f"{path}.weight", base)
        assert np.abs(want - base).max() > 0.1
        found = merge(theirs, plain.tensors)(f"{path}.weight", base)
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
    assert {name.rpartition(".")[2] for name in plain.tensors} == {LORA_A, LORA_B}
    write_peft(delta, names, tmp_path / "out")
    again = from_peft(read_delta(tmp_path / "out"), names)
    assert again.config["variant"] == "lora" and again.digest == plain.digest
    assert {path: LoraConfig(**again.config).site(path) for path in MODULES} == {
        path: theirs.site(path) for path in MODULES
    }
    other = make_delta(lora_arrays(MODULES), name="plain.ckpt")
    assert as_plain_lora(other) is other
