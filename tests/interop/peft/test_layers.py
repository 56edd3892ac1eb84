"""Adapters of peft with matrices of their own beside each layer: names, settings, refusals, and the way out."""

import itertools
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from petrun.checkpoint.delta import read_delta
from petrun.errors import DeltaError
from petrun.interop.convert import algo_of, from_peft, write_peft
from tests.checkpoint.toy_family import HIDDEN, PREFIXES

B = "base_model.model."
PATHS = ["layers.0.attn.q", "layers.1.attn.q"]
# Kind -> (algorithm, fields of its config, {name of a matrix: (its shape, last part of its name here)}, settings here).
KINDS = {
    "LOHA": (
        "loha",
        {
            "r": 2,
            "alpha": 3,
            "alpha_pattern": {"h.1.attn.query": 5},
            "rank_dropout": 0.1,
            "use_effective_conv2d": False,
        },
        {
            "hada_w1_a": ((HIDDEN, 2), "mindpet_delta_loha_w1_a"),
            "hada_w1_b": ((2, HIDDEN), "mindpet_delta_loha_w1_b"),
            "hada_w2_a": ((HIDDEN, 2), "mindpet_delta_loha_w2_a"),
            "hada_w2_b": ((2, HIDDEN), "mindpet_delta_loha_w2_b"),
        },
        {"rank": 2, "alpha": 3.0, "rank_pattern": {}, "alpha_pattern": {"layers.1.attn.q": 5}},
    ),
    "LOKR": (
        "lokr",
        {"r": 1, "alpha": 3, "decompose_both": False, "decompose_factor": -1, "module_dropout": 0.2},
        {
            "lokr_w1": ((2, 2), "mindpet_delta_lokr_w1"),
            "lokr_w2_a": ((3, 1), "mindpet_delta_lokr_w2_a"),
            "lokr_w2_b": ((1, 3), "mindpet_delta_lokr_w2_b"),
        },
        {
            "rank": 1,
            "alpha": 3.0,
            "rank_pattern": {},
            "alpha_pattern": {},
            "decompose_both": False,
            "decompose_factor": -1,
        },
    ),
    "VERA": (
        "vera",
        {"r": 4, "vera_dropout": 0.1, "d_initial": 0.2, "projection_prng_key": 3, "save_projection": True},
        {
            "vera_lambda_b": ((HIDDEN,), "mindpet_delta_vera_lambda_b"),
            "vera_lambda_d": ((4,), "mindpet_delta_vera_lambda_d"),
        },
        {"rank": 4, "dropout": 0.1, "d_initial": 0.2},
    ),
    "OFT": (
        "oft",
        {
            "r": 0,
            "oft_block_size": 3,
            "use_cayley_neumann": True,
            "num_cayley_neumann_terms": 4,
            "eps": 6e-5,
            "coft": False,
        },
        {"oft_R.weight": ((2, 3), "mindpet_delta_oft_r")},
        {"block_size": 3, "blocks": None, "terms": 4},
    ),
    "MISS": (
        "miss",
        {"r": 4, "miss_dropout": 0.1, "mini_r": 1},
        {"miss_block": ((4, HIDDEN), "mindpet_delta_miss_block")},
        {"rank": 4, "dropout": 0.1},
    ),
}


# Tensors that belong to no layer: name in the file -> (its shape, its name here).
SHARED = {
    "VERA": {
        "base_model.vera_A": ((4, HIDDEN), f"{PATHS[0]}.mindpet_delta_vera_a"),
        "base_model.vera_B": ((HIDDEN, 4), f"{PATHS[0]}.mindpet_delta_vera_b"),
    }
}


def with_name(part, infix):
    """The name of a matrix with the adapter's own in it, which stands before the weight of a module."""
    return f"{part.removesuffix('.weight')}{infix}.weight" if part.endswith(".weight") else part + infix


def tensors_of(kind, infix=""):
    rng = np.random.default_rng(4)
    shared = {
        f"{name}{infix}": rng.standard_normal(shape).astype(np.float32)
        for name, (shape, _) in SHARED.get(kind, {}).items()
    }
    return shared | {
        f"{B}model.h.{i}.attn.query.{with_name(part, infix)}": rng.standard_normal(shape).astype(np.float32)
        for i in range(2)
        for part, (shape, _) in KINDS[kind][2].items()
    }


@pytest.fixture
def write(write_adapter):
    folders = (f"adapter{i}" for i in itertools.count())

    def make(kind, tensors, **config):
        path = write_adapter(tensors, next(folders))
        common = {
            "peft_type": kind,
            "target_modules": ["query"],
            "task_type": "CAUSAL_LM",
            "peft_version": "0.21.2",
            "init_weights": True,
            "modules_to_save": None,
            "exclude_modules": None,
        }
        (path / "adapter_config.json").write_text(json.dumps({**common, **KINDS[kind][1], **config}))
        return path

    return make


@pytest.mark.parametrize("infix", ["", ".default"])
@pytest.mark.parametrize("kind", KINDS)
def test_names_settings_and_values(write, names, kind, infix):
    algo, _, parts, settings = KINDS[kind]
    tensors = tensors_of(kind, infix)
    raw = read_delta(write(kind, tensors))
    assert algo_of(raw) == algo
    delta = from_peft(raw, names, PREFIXES)
    assert delta.algo == algo and delta.config == {**settings, "target": PATHS}
    shared = {ours: tensors[name + infix] for name, (_, ours) in SHARED.get(kind, {}).items()}
    assert set(delta.tensors) == {f"{path}.{leaf}" for path in PATHS for _, leaf in parts.values()} | set(shared)
    for ours, stored in shared.items():
        np.testing.assert_array_equal(delta.tensors[ours], stored)
    for i, path in enumerate(PATHS):
        for part, (_, leaf) in parts.items():
            stored = tensors[f"{B}model.h.{i}.attn.query.{with_name(part, infix)}"]
            np.testing.assert_array_equal(delta.tensors[f"{path}.{leaf}"], stored)


@pytest.mark.parametrize("kind", KINDS)
def test_out_and_in_again(tmp_path, write, names, kind):
    head = {"weight": np.ones((3, HIDDEN), np.float32), "bias": np.arange(3, dtype=np.float32)}
    tensors = {**tensors_of(kind), **{f"{B}classifier.{k}": v for k, v in head.items()}}
    delta = from_peft(read_delta(write(kind, tensors, modules_to_save=["classifier"])), names)
    write_peft(delta, names, tmp_path / "out", task="classify", base="some/base")
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert written.keys() == tensors.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(written[name], values)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["target_modules"]) == (kind, "SEQ_CLS", ["query"])
    again = from_peft(read_delta(tmp_path / "out"), names)
    assert (again.digest, again.config) == (delta.digest, delta.config)


def refused(write, names, kind, message, tensors=None, **config):
    with pytest.raises(DeltaError, match=message):
        from_peft(read_delta(write(kind, tensors_of(kind) if tensors is None else tensors, **config)), names)


@pytest.mark.parametrize("kind", KINDS)
def test_what_every_kind_refuses(write, names, kind):
    first = next(iter(KINDS[kind][2]))
    whole = tensors_of(kind)
    name = f"{B}model.h.0.attn.query.{first}"
    lacking = {key: value for key, value in whole.items() if key != name}
    ones = np.ones((2, 2), np.float32)
    up = {key.replace("attn.query", "mlp.c_fc"): value for key, value in whole.items()}
    refused(write, names, kind, "use_gate: True is not supported", use_gate=True)
    refused(write, names, kind, r"query: (lacks|target_modules names it)", lacking)
    refused(
        write,
        names,
        kind,
        "are the same matrix",
        {**whole, f"{B}model.h.0.attn.query.{with_name(first, '.default')}": whole[name]},
    )
    refused(write, names, kind, "no such layer", {**whole, name.replace("h.0", "h.9"): ones})
    refused(write, names, kind, "target_modules does not name it", target_modules=["value"])
    refused(write, names, kind, "target_modules names it, but the file lacks", target_modules=["query", "value"])
    if kind not in ("VERA", "OFT"):
        refused(write, names, kind, "is a Conv1D, for which peft has no", up, target_modules=["c_fc"])
    refused(write, names, kind, "must be", {**whole, name: np.ones((3, 3, 3), np.float32)})
    refused(write, names, kind, "holds NaN", {**whole, name: np.full_like(whole[name], np.nan)})


def test_ranks_that_the_config_does_not_state(write, names):
    refused(write, names, "LOHA", "do not go together at rank 3", rank_pattern={"query": 3})
    refused(write, names, "LOHA", "alpha is 0", alpha=0)


def test_lokr_whose_matrices_are_others(write, names):
    """The sizes of a layer and the config say which matrices there are."""
    refused(write, names, "LOKR", r"the config asks for lokr_w1 \[2, 2\], lokr_w2 \[3, 3\]", r=2)
    refused(write, names, "LOKR", "the config asks for lokr_w1", decompose_factor=3)
    refused(write, names, "LOKR", "alpha is 0", alpha=0)
    refused(write, names, "LOKR", "decompose_factor: must be a positive whole number", decompose_factor=0)


def test_vera_without_its_matrices(write, names):
    refused(write, names, "VERA", "save_projection: is off, so the file lacks A and B", save_projection=False)
    alone = {name: value for name, value in tensors_of("VERA").items() if "vera_A" not in name}
    refused(write, names, "VERA", r"base_model.vera_A: is missing; must be \(r, in\), with r = 4", alone)
    refused(write, names, "VERA", r"vera_lambda_d is \[4\], the config says 5", r=5)


def test_other_rotations(write, names):
    refused(write, names, "OFT", "use_cayley_neumann: off is not supported", use_cayley_neumann=False)
    refused(write, names, "OFT", "num_cayley_neumann_terms: 1 is not supported", num_cayley_neumann_terms=1)
    refused(write, names, "OFT", "coft: True is not supported", coft=True)
    refused(write, names, "OFT", "block_share: True is not supported", block_share=True)
    refused(write, names, "OFT", "one of them must be 0", r=2)
    refused(write, names, "OFT", r"oft_R is \[2, 3\], which oft_block_size 2 does not give", oft_block_size=2)
    refused(write, names, "OFT", r"oft_R is \[2, 3\], which r 3 does not give", r=3, oft_block_size=0)


def test_a_number_of_blocks(write, names):
    delta = from_peft(read_delta(write("OFT", tensors_of("OFT"), r=2, oft_block_size=0)), names)
    assert (delta.config["blocks"], delta.config["block_size"]) == (2, None)


def test_other_variants_of_miss(write, names):
    for variant in ("bat", "mini"):
        refused(write, names, "MISS", f"init_weights: the variant '{variant}' is not supported", init_weights=variant)
    refused(write, names, "MISS", r"miss_block is \[4, 6\], the config says r = 5", r=5)


def test_a_conv1d_has_no_place_in_peft(tmp_path, write, names, make_delta):
    algo, _, parts, settings = KINDS["LOHA"]
    held = {
        f"layers.0.mlp.up.{leaf}": np.ones((8 if "_a" in leaf[-2:] else 2, 2), np.float32) for _, leaf in parts.values()
    }
    with pytest.raises(DeltaError, match=r"adapts model\.h\.0\.mlp\.c_fc, a Conv1D, for which peft has no LoHa"):
        write_peft(make_delta(held, algo, **settings), names, tmp_path / "out")
    assert not (tmp_path / "out").exists()
