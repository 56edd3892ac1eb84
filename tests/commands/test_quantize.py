"""`petrun quantize`: the folder is the base in codes, for petrun and for bitsandbytes; bad requests are refused and leave nothing."""

import json
import shlex

import numpy as np
import pytest

from petrun.checkpoint.delta import read_delta
from petrun.config.schema import ModelConfig
from petrun.inference.stored_base import stored_base
from petrun.models.factory import ModelSource, load_model
from petrun.tensors import array_entries, open_tensors, write_safetensors
from tests.tiny import ORDERS, write_base, write_rows


@pytest.fixture
def run(petrun):
    """The program with these words."""
    return lambda *words: petrun(shlex.join(map(str, words)))


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {family: write_base(root / family, family) for family in ("llama", "gpt2")}


@pytest.mark.parametrize(("bits", "form"), [("8", "int8"), ("4", "nf4")])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_folder_is_the_base_as_base_bits_makes_it(run, bases, tmp_path, family, bits, form):
    out = tmp_path / "quantised"
    done = run("quantize", "--base", bases[family], "--out", out, "--base-bits", bits)
    assert done.code == 0, done.err
    assert f"tensors to {form}" in done.out and "error of the weights" in done.out
    written, made = load_model(out), load_model(ModelSource(base=bases[family], quantisation=form))
    assert written.content == made.content and written.content.original == load_model(bases[family]).base_digest
    stored = open_tensors(out)
    codes = [name for name in stored.names if stored.info(name).dtype == ("int8" if bits == "8" else "uint8")]
    assert any(name.endswith("weight") for name in codes)
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert config["load_in_4bit"] == (form == "nf4") and config["quant_method"] == "bitsandbytes"
    assert "lm_head" in config["llm_int8_skip_modules"]
    assert (out / "tokenizer.json").exists()


def test_bitsandbytes_reads_the_codes(run, bases, tmp_path):
    torch = pytest.importorskip("torch")
    of_bitsandbytes = pytest.importorskip("bitsandbytes.functional")
    out = tmp_path / "quantised"
    assert run("quantize", "--base", bases["llama"], "--out", out).code == 0
    reader = open_tensors(out)
    values = stored_base(ModelConfig(base=str(out))).reader()
    name = "model.layers.0.mlp.up_proj.weight"
    parts = {n: torch.tensor(reader.read(n)) for n in reader.names if n.startswith(f"{name}.")}
    state = of_bitsandbytes.QuantState.from_dict(parts, device="cpu")
    found = of_bitsandbytes.dequantize_4bit(torch.tensor(reader.read(name)), state).numpy()
    np.testing.assert_allclose(found, values.read(name), atol=1e-6)


def test_bad_requests_are_refused(run, bases, tmp_path):
    out = tmp_path / "quantised"
    again = run("quantize", "--base", bases["llama"], "--out", out, "--base-bits", "3")
    assert again.code != 0 and "--base-bits 3" in again.err and not out.exists()
    assert run("quantize", "--base", bases["llama"], "--out", out).code == 0
    occupied = run("quantize", "--base", bases["llama"], "--out", out)
    assert occupied.code != 0 and str(out) in occupied.err
    twice = run("quantize", "--base", out, "--out", tmp_path / "twice")
    assert twice.code != 0 and "quantised already" in twice.err and not (tmp_path / "twice").exists()
    own = run("quantize", "--base", bases["llama"], "--out", tmp_path / "own", "--model", "some.module:make")
    assert own.code != 0 and "a model of your own" in own.err


@pytest.mark.parametrize("bits", ["8", "4"])
def test_a_base_that_is_not_finite_is_refused(run, tmp_path, bits):
    """4 bits ended in an IndexError, 8 bits in a folder whose scales were NaN."""
    base, out = write_base(tmp_path / "base", "llama"), tmp_path / "quantised"
    reader = open_tensors(base)
    arrays = {name: reader.read(name) for name in reader.names}
    broken = "model.layers.0.mlp.up_proj.weight"
    arrays[broken] = arrays[broken].copy()
    arrays[broken][0, 0] = np.nan
    write_safetensors(base / "model.safetensors", array_entries(arrays), {"format": "pt"})
    done = run("quantize", "--base", base, "--out", out, "--base-bits", bits)
    assert done.code == 1 and f"{broken} holds 1 NaN or Inf among" in done.err and "Traceback" not in done.err
    assert not out.exists()


def test_a_merge_of_a_quantised_base_is_in_full_precision(run, bases, tmp_path, rows_of_orders):
    trained_in, merged = tmp_path / "run", tmp_path / "merged"
    trained = run(
        *(
            "train",
            "--base",
            bases["llama"],
            "--base-bits",
            "4",
            "--data",
            rows_of_orders,
            "--steps",
            "2",
            "--out",
            trained_in,
        ),
        *("--batch-size", "2", "--set", "eval.samples=0"),
    )
    assert trained.code == 0, trained.err
    base = read_delta(trained_in).manifest.base
    assert base.quantisation == "nf4" and base.original == load_model(bases["llama"]).base_digest
    done = run("merge", "--base", bases["llama"], "--delta", trained_in, "--out", merged, "--prove")
    assert done.code == 0, done.err
    assert "quantization_config" not in json.loads((merged / "config.json").read_text())
    made = stored_base(ModelConfig(base=str(bases["llama"]), quant="nf4")).reader()
    untouched = "model.layers.0.mlp.up_proj.weight"
    assert np.array_equal(open_tensors(merged).read(untouched), made.read(untouched))
    other = run(
        "eval", "--base", bases["llama"], "--delta", trained_in, "--data", rows_of_orders, "--base-bits", "none"
    )
    assert other.code != 0 and "was trained on llama in nf4; here it is in full precision" in other.err
    told = run(
        "merge", "--base", bases["llama"], "--delta", trained_in, "--out", tmp_path / "full", "--base-bits", "none"
    )
    assert told.code == 0, told.err
    full = open_tensors(tmp_path / "full").read(untouched)
    assert np.array_equal(full, open_tensors(bases["llama"]).read(untouched))


@pytest.fixture
def rows_of_orders(tmp_path):
    return write_rows(tmp_path / "orders.jsonl", ORDERS)


def test_a_merge_can_be_quantised_again(place, petrun):
    """The codes are those of the merged model in full precision; what is refused is refused before the merge."""
    merge = "merge --base gpt2 --delta gpt2-lora "
    assert petrun(merge + "--out full").code == 0
    assert petrun("quantize --base full --out expected --base-bits 8").code == 0
    done = petrun(merge + "--out again --out-bits 8 --prove")
    assert done.code == 0 and "error of the weights" in done.out and "proof on" in done.out, done.err
    expected, found = open_tensors(place / "expected"), open_tensors(place / "again")
    assert found.names == expected.names
    assert all(np.array_equal(found.read_stored(name), expected.read_stored(name)) for name in found.names)
    before = {path.name for path in place.iterdir()}
    for line, words in (
        ("--out no --out-bits 2", "--out-bits 2: is no form"),
        ("--out no.ckpt --out-bits 8", "codes are written into a folder"),
        ("--out full --out-bits 8", "full: exists"),
    ):
        done = petrun(merge + line)
        assert done.code != 0 and words in done.err, done.err
    assert {path.name for path in place.iterdir()} == before
