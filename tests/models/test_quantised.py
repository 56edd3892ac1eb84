"""Bases in 8 and 4 bits: quantised as they are loaded, and ready-made folders."""

import json

import numpy as np
import pytest
from mindspore import Tensor, nn

from petrun.config.schema import ModelConfig
from petrun.errors import ModelError, WeightsError
from petrun.graph.packed_weight import packed_of, packed_weights
from petrun.graph.surgery import cells
from petrun.inference.stored_base import stored_base
from petrun.models.factory import ModelSource, load_model, outline_model
from petrun.tensors import array_entries, open_tensors, write_safetensors
from petrun.tensors.quantised import bitsandbytes
from petrun.tensors.quantised.codecs import CODECS, quantise
from tests.tensors.quantised.group_files import awq, gptq, rounded, values
from tests.tiny import write_base

QUANTISED = {
    "int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {family: write_base(root / family, family) for family in ("llama", "gpt2", "bert")}


def load(base, form=None, **more):
    return load_model(ModelSource(base=base, quantisation=form), **more)


def ready_made(folder, base, form):
    """A folder as transformers with bitsandbytes writes one: linear layers (out, in) in codes, all else as it was."""
    model = stored_base(ModelConfig(base=str(base), quant=form))
    reader = model.reader()
    arrays = {}
    for name in reader.names:
        tensor = reader.held_packed(name)
        if tensor is None:
            arrays[name] = reader.read(name)
        else:
            arrays |= bitsandbytes.stored_arrays(name, tensor.load(), tensor.dtype)
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", array_entries(arrays), {"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": QUANTISED[form]}))
    return folder


def in_groups(folder, base, method, block=8, desc_act=False):
    """Two folders of one model: as a tool of GPTQ or AWQ writes it, in 4 bits, and with the values of its codes in float32."""
    reader = stored_base(ModelConfig(base=str(base), quant="int8")).reader()
    packed, full = {}, {}
    for name in reader.names:
        if reader.held_packed(name) is None:
            packed[name] = full[name] = reader.inner.read(name)
            continue
        is_transposed = reader.held_packed(name).transposed
        weight = reader.inner.read(name).T if is_transposed else reader.inner.read(name)
        codes, zeros, scales = rounded(weight, block, 4)
        groups = np.repeat(np.arange(len(scales)), block)
        if desc_act:
            groups = np.random.default_rng(len(name)).permutation(groups)
        path = name.removesuffix(".weight")
        packed |= gptq(path, codes, zeros, scales, groups, 4) if method == "gptq" else awq(path, codes, zeros, scales)
        made = values(codes, zeros, scales, groups)
        full[name] = np.ascontiguousarray(made.T) if is_transposed else made
    stated = {"quant_method": method, "bits": 4, "group_size": block, "desc_act": desc_act}
    config = json.loads((base / "config.json").read_text())
    for each, arrays, more in (("packed", packed, {"quantization_config": stated}), ("full", full, {})):
        (folder / each).mkdir(parents=True)
        write_safetensors(folder / each / "model.safetensors", array_entries(arrays), {"format": "pt"})
        (folder / each / "config.json").write_text(json.dumps({**config, **more}))
    return folder / "packed", folder / "full"


@pytest.mark.parametrize(
    ("family", "method", "desc_act"),
    [("llama", "gptq", False), ("llama", "gptq", True), ("gpt2", "gptq", True), ("llama", "awq", False)],
)
def test_folders_of_gptq_and_awq(pynative, bases, tmp_path, family, method, desc_act):
    folder, full = in_groups(tmp_path, bases[family], method, desc_act=desc_act)
    found, expected = load(folder), load(full)
    assert found.quantisation == f"{method}-4" and len(packed_weights(found.net)) > 0
    ids = np.arange(6, dtype=np.int32)[None] + 4
    inputs = {"input_ids": ids, "segment_ids": np.ones_like(ids), "position_ids": np.arange(6, dtype=np.int32)[None]}
    outputs = [model.net(*(Tensor(inputs[name]) for name in model.inputs)).asnumpy() for model in (found, expected)]
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-6)
    outlined = outline_model(ModelSource(base=folder), compute_dtype="float32")
    shapes = [{p.name: (tuple(p.shape), str(p.dtype)) for p in m.net.get_parameters()} for m in (found, outlined)]
    assert shapes[0] == shapes[1]
    with pytest.raises(ModelError, match=f"the base is in {method}-4 already"):
        load(folder, "nf4")
    # As AutoGPTQ wrote folders at first: its settings in a file of their own.
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match=r"holds qweight in the place of weights, and config\.json has no quantization_config"
    ):
        load(folder)


@pytest.mark.parametrize("form", ["int8", "nf4"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_every_layer_with_a_role_is_packed_and_nothing_else(pynative, bases, family, form):
    loaded = load(bases[family], form, **({"num_labels": 2} if family == "bert" else {}))
    full = load_model(bases[family], **({"num_labels": 2} if family == "bert" else {}))
    theirs = cells(full.net)
    count = 0
    for path, cell in cells(loaded.net).items():
        packed = packed_of(cell)
        if packed is not None:
            count += 1
            expected = CODECS[form](theirs[path].weight.asnumpy())
            assert np.array_equal(packed.stored().dequantised(), expected.dequantised())
    linears = [path for path, cell in theirs.items() if path.startswith("layers.") and isinstance(cell, nn.Dense)]
    names = {p.name for p in loaded.net.get_parameters()}
    assert count == len(linears) > 0 and not any(f"{path}.weight" in names for path in linears)
    assert loaded.quantisation == form and loaded.original_digest == full.base_digest != loaded.base_digest


@pytest.mark.parametrize("form", ["int8", "nf4"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_ready_made_folder_is_the_same_base(pynative, bases, tmp_path, family, form):
    folder = ready_made(tmp_path / "ready", bases[family], form)
    made, found = load(bases[family], form), load(folder)
    assert found.base_digest == made.base_digest and found.quantisation == form
    ids = np.arange(6, dtype=np.int32)[None] + 4
    inputs = {"input_ids": ids, "segment_ids": np.ones_like(ids), "position_ids": np.arange(6, dtype=np.int32)[None]}
    outputs = [model.net(*(Tensor(inputs[name]) for name in model.inputs)).asnumpy() for model in (made, found)]
    assert np.array_equal(*outputs)
    stored = stored_base(ModelConfig(base=str(folder)))
    assert stored.content().digest == found.base_digest
    assert stored_base(ModelConfig(base=str(bases[family]), quant=form)).content() == made.content


def test_values_are_read_in_the_layout_of_the_names(bases, tmp_path):
    """GPT-2's files hold (in, out), bitsandbytes' codes (out, in)."""
    folder = ready_made(tmp_path / "ready", bases["gpt2"], "int8")
    reader = stored_base(ModelConfig(base=str(folder))).reader()
    full = open_tensors(bases["gpt2"])
    name = next(n for n in full.names if n.endswith("attn.c_attn.weight"))
    assert reader.info(name).shape == full.info(name).shape
    expected = CODECS["int8"](np.ascontiguousarray(full.read(name).T)).dequantised().T
    assert np.array_equal(reader.read(name), expected)


def test_an_outline_has_the_same_parameters(bases):
    for form in ("int8", "nf4"):
        loaded = load(bases["llama"], form)
        outlined = outline_model(ModelSource(base=bases["llama"], quantisation=form), compute_dtype="float32")
        shapes = [{p.name: (tuple(p.shape), str(p.dtype)) for p in m.net.get_parameters()} for m in (loaded, outlined)]
        assert shapes[0] == shapes[1]
        assert len(packed_weights(outlined.net)) == len(packed_weights(loaded.net))


def test_other_bits_than_the_folder_has_are_refused(bases, tmp_path):
    folder = ready_made(tmp_path / "ready", bases["llama"], "nf4")
    with pytest.raises(ModelError, match="the base is in nf4 already"):
        load(folder, "int8")


def test_an_unknown_way_of_quantising_is_named(bases, tmp_path):
    folder = write_base(tmp_path / "other", "llama", quantization_config={"quant_method": "aqlm"})
    with pytest.raises(ModelError, match=r"quantization_config.quant_method = 'aqlm' is not supported") as refused:
        load(folder)
    assert "--base-bits" in refused.value.hint


def test_a_config_that_promises_codes_needs_them(bases, tmp_path):
    folder = write_base(tmp_path / "other", "llama", quantization_config=QUANTISED["nf4"])
    with pytest.raises(ModelError, match=r"config\.json says that the weights are quantised, and no matrix is"):
        load(folder)


@pytest.mark.parametrize(
    ("leaf", "change", "message"),
    [
        ("absmax", lambda a: a[:-1], r"absmax holds \d+ of uint8, not"),
        ("nested_quant_map", None, "lacks .*nested_quant_map"),
        ("quant_state.bitsandbytes__nf4", lambda a: a[:-3], "is not JSON"),
        ("quant_state.bitsandbytes__nf4", lambda a: np.frombuffer(b'{"shape": [3]}', np.uint8), r"its shape is \[3\]"),
    ],
)
def test_damaged_codes_are_refused_by_name(bases, tmp_path, leaf, change, message):
    folder = ready_made(tmp_path / "ready", bases["llama"], "nf4")
    reader = open_tensors(folder)
    broken = next(name for name in reader.names if name.endswith(f".weight.{leaf}"))
    arrays = {name: reader.read(name) for name in reader.names}
    if change is None:
        del arrays[broken]
    else:
        arrays[broken] = change(arrays[broken])
    write_safetensors(folder / "model.safetensors", array_entries(arrays), {"format": "pt"})
    with pytest.raises(WeightsError, match=message) as refused:
        load(folder)
    assert broken.rpartition(".weight.")[0] in refused.value.message


def test_codes_in_the_order_of_a_gpu_are_refused(bases, tmp_path):
    """bitsandbytes before 0.45 wrote them so, with 1, 2 or 3 as the layer's weight_format; later versions read 0 alone."""
    folder = ready_made(tmp_path / "ready", bases["llama"], "int8")
    reader = open_tensors(folder)
    arrays = {name: reader.read(name) for name in reader.names}
    turned = next(name for name in arrays if name.endswith(".weight_format"))
    arrays[turned] = np.array(2, np.uint8)
    write_safetensors(folder / "model.safetensors", array_entries(arrays), {"format": "pt"})
    with pytest.raises(WeightsError, match=rf"{turned} is \[2\], not \[0\]: its codes are in another order"):
        load(folder)


@pytest.mark.parametrize("form", ["int8", "nf4"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_a_matrix_without_codes_is_named(form, value):
    values = np.ones((4, 64))
    values[1, 3] = value
    with pytest.raises(WeightsError, match="base: w holds 1 NaN or Inf among 256 values"):
        quantise(form, values, "base: w")


def test_a_model_of_the_users_own_is_not_quantised():
    with pytest.raises(ModelError, match="--base-bits int8: quantises built-in families"):
        load_model(ModelSource(family="some.module:make", quantisation="int8"))
