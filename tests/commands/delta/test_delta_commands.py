"""`petrun delta ...` on files of tiny bases. No net runs: every number is checked against the merged weights or the dense updates."""

import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from petrun.checkpoint.delta import read_delta
from petrun.commands import merge
from petrun.config.commands.merge import MergeSettings
from petrun.inference.assembly import attach_delta, fit_delta, set_delta
from petrun.inference.merging import probe
from petrun.tensors import array_entries, open_tensors, write_safetensors
from tests.commands.test_export import make_delta, open_base
from tests.tiny import write_base

LORA = {"rank": 2, "alpha": 8.0}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A gpt2 and two LoRA deltas of it; a third one of another base."""
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "gpt2", "gpt2")
    make_delta(tmp_path / "gpt2", "gpt2", "lora", tmp_path / "a.ckpt", LORA)
    make_delta(
        tmp_path / "gpt2", "gpt2", "lora", tmp_path / "b.safetensors", {"rank": 3, "alpha": 5.0, "variant": "rslora"}
    )
    return tmp_path


def merged(delta, out, base="gpt2"):
    """The base with the delta folded in, by the merge: tensor -> float64."""
    merge.run(MergeSettings(base=base, deltas=(str(delta),), out=str(out)))
    return {n: a.astype(np.float64) for n, a in load_file(f"{out}/model.safetensors").items()}


def test_sums_merge_as_their_parts_do(here, petrun):
    done = petrun("delta add a.ckpt:0.5 b.safetensors:-2 --out sum.ckpt")
    assert done.code == 0 and "relative error (Frobenius)" in done.out, done.err
    base = {n: a.astype(np.float64) for n, a in load_file("gpt2/model.safetensors").items()}
    one, other, total = (merged(f, f"m{i}") for i, f in enumerate(("a.ckpt", "b.safetensors", "sum.ckpt")))
    for name, own in base.items():
        want = own + 0.5 * (one[name] - own) - 2.0 * (other[name] - own)
        np.testing.assert_allclose(total[name], want, rtol=0, atol=1e-5)
    assert max(np.abs(total[n] - base[n]).max() for n in base) > 0.1
    manifest = read_delta("sum.ckpt").manifest
    source = read_delta("a.ckpt")
    assert manifest.base == source.manifest.base and manifest.step == 0 and manifest.metrics == {}
    assert manifest.made[0] == "sum" and source.digest in manifest.made[1]
    # ShardSpec to one rank: the error that was printed is the one on disk.
    assert petrun("delta compress sum.ckpt --rank 1 --out cut.ckpt").code == 0
    done = petrun("delta diff sum.ckpt cut.ckpt --json")
    pairs = json.loads(done.out)["tensors"]
    cut = merged("cut.ckpt", "m3")
    for pair in pairs:
        stored = f"transformer.h.{pair['name'].split('.')[1]}.attn.c_attn.weight"
        want = np.linalg.norm(cut[stored] - total[stored])
        assert pair["difference"] == pytest.approx(want, rel=1e-4, abs=1e-4) and pair["difference"] > 0.01
    assert petrun("delta scale sum.ckpt 0.5 --out half.ckpt").code == 0
    half = merged("half.ckpt", "m4")
    for name, own in base.items():
        np.testing.assert_allclose(half[name], own + 0.5 * (total[name] - own), rtol=0, atol=1e-5)
    # A number below 0 is an argument, wherever it stands.
    for line in (
        "sum.ckpt -1.5e-1 --out minus.ckpt",
        "--out again.ckpt sum.ckpt -.15",
        "sum.ckpt --out third.ckpt -- -0.15",
    ):
        assert petrun(f"delta scale {line}").code == 0
    assert (
        (here / "minus.ckpt").read_bytes() == (here / "third.ckpt").read_bytes() == (here / "again.ckpt").read_bytes()
    )
    minus = merged("minus.ckpt", "m5")
    for name, own in base.items():
        np.testing.assert_allclose(minus[name], own - 0.15 * (total[name] - own), rtol=0, atol=1e-5)
    for method in ("ties --density 0.5", "dare --drop 0.5 --seed 3 --energy 0.9"):
        done = petrun(f"delta add a.ckpt b.safetensors --method {method} --out {method[:4]}.safetensors")
        assert done.code == 0 and "scale * B A of each layer" in done.out, done.err
    assert petrun("delta info dare.safetensors").out.count("norm") >= 3


def test_what_was_added_loads(here, petrun):
    """In the net, as eval and predict load it."""
    assert petrun("delta add a.ckpt b.safetensors --energy 0.9 --out sum.ckpt").code == 0
    loaded = open_base(here / "gpt2", "gpt2")
    fitted = fit_delta(read_delta("sum.ckpt"), loaded, None)
    set_delta(attach_delta(loaded, fitted), fitted)


def test_a_lora_out_of_two_models(here, petrun):
    merged("a.ckpt", "tuned")
    done = petrun("delta extract --base gpt2 --tuned tuned --rank 2 --out found.ckpt")
    assert done.code == 0 and "layers, rank 2" in done.out, done.err
    again = merged("found.ckpt", "again")
    for name, values in load_file("tuned/model.safetensors").items():
        np.testing.assert_allclose(again[name], values, rtol=0, atol=1e-5)
    assert read_delta("found.ckpt").manifest.base.digest == read_delta("a.ckpt").manifest.base.digest
    # What differs elsewhere is kept whole, or named as left out.
    tensors = load_file("tuned/model.safetensors")
    shift = next(n for n in tensors if n.endswith("ln_f.bias"))
    tensors[shift] = tensors[shift] + 1
    save_file(tensors, "tuned/model.safetensors", {"format": "pt"})
    done = petrun("delta extract --base gpt2 --tuned tuned --energy 0.5 --no-rest --out less.ckpt")
    assert "1 tensors differ and are left out" in done.out, done.err
    done = petrun("delta extract --base gpt2 --tuned tuned --rank 2 --out more.ckpt")
    assert "1 tensors are kept whole" in done.out
    np.testing.assert_array_equal(merged("more.ckpt", "moved")[shift], tensors[shift])
    same = petrun("delta extract --base gpt2 --tuned gpt2 --rank 2 --out none.ckpt")
    assert same.code == 1 and "differs from" in same.err and not (here / "none.ckpt").exists()


def test_conversions(tmp_path, monkeypatch, petrun):
    """petrun -> peft -> petrun, -> MindPet -> petrun, AdaLoRA and PiSSA -> LoRA: the merged weights are the same throughout."""
    monkeypatch.chdir(tmp_path)
    base = write_base(tmp_path / "bert", "bert")
    make_delta(base, "bert", "lora", tmp_path / "pissa.ckpt", {**LORA, "variant": "pissa"})
    make_delta(base, "bert", "adalora", tmp_path / "ada.ckpt", {"rank": 2, "alpha": 8.0})
    want = merged("pissa.ckpt", "m0", "bert")
    lines = (
        "pissa.ckpt --as lora --out plain.safetensors",
        "plain.safetensors --to peft --base bert --out adapter",
        "adapter --base bert --out back.ckpt",
        "plain.safetensors --to mindpet --out mindpet.ckpt",
        "mindpet.ckpt --base bert --alpha 16 --out again.ckpt",
    )
    for line in lines:
        done = petrun(f"delta convert {line}")
        assert done.code == 0, done.err
    for i, name in enumerate(("plain.safetensors", "back.ckpt", "again.ckpt")):
        got = merged(name, f"back{i}", "bert")
        for key, values in want.items():
            np.testing.assert_allclose(got[key], values, rtol=0, atol=1e-5)
    digests = {read_delta(n).manifest.base.digest for n in ("pissa.ckpt", "back.ckpt", "again.ckpt")}
    assert len(digests) == 1
    assert "petrun_manifest" not in open_tensors("mindpet.ckpt").metadata
    assert "convert to lora" in read_delta("plain.safetensors").manifest.made[0]
    assert petrun("delta convert ada.ckpt --as lora --out ada-lora.ckpt").code == 0
    one, other = merged("ada.ckpt", "m1", "bert"), merged("ada-lora.ckpt", "m2", "bert")
    for key, values in one.items():
        np.testing.assert_allclose(other[key], values, rtol=0, atol=1e-5)
    loaded = open_base(base, "bert")
    fitted = fit_delta(read_delta("back.ckpt"), loaded, None)
    set_delta(attach_delta(loaded, fitted), fitted)
    for line, words in (
        ("pissa.ckpt --to mindpet --out x.ckpt", "MindPet's files cannot say"),
        ("pissa.ckpt --out plain.safetensors", "exists"),
        ("pissa.ckpt --to zip --out x.ckpt", "--to zip is unknown"),
        ("pissa.ckpt --as ia3 --out x.ckpt", "--as ia3 is unknown"),
    ):
        done = petrun(f"delta convert {line}")
        assert done.code in (1, 2) and words in done.err and not (tmp_path / "x.ckpt").exists(), done.err


def test_refusals(here, petrun):
    write_base(here / "other", "gpt2", n_layer=1)
    make_delta(here / "other", "gpt2", "lora", here / "c.ckpt", LORA)
    make_delta(here / "gpt2", "gpt2", "ia3", here / "ia3.ckpt", {})
    for line, words in (
        ("add a.ckpt c.ckpt --out x.ckpt", "belong to different bases"),
        ("add a.ckpt --out x.ckpt", "at least two deltas"),
        ("add a.ckpt:0 b.safetensors --out x.ckpt", "finite number other than 0"),
        ("add a.ckpt:half b.safetensors --out x.ckpt", "'half' is not a weight"),
        ("add a.ckpt ia3.ckpt --out x.ckpt", "multiplies what a layer gives"),
        ("add a.ckpt b.safetensors --density 0.2 --out x.ckpt", "--density is for --method ties"),
        ("add a.ckpt b.safetensors --method tise --out x.ckpt", "Did you mean ties?"),
        ("add a.ckpt b.safetensors", "--out is missing"),
        ("add a.ckpt b.safetensors --out x.bin", "ends in .ckpt or .safetensors"),
        ("add a.ckpt b.safetensors --out a.ckpt", "exists"),
        ("add a.ckpt b.safetensors --base other --out x.ckpt", "was trained on a base with other content"),
        ("add a.ckpt none.ckpt --out x.ckpt", "none.ckpt: no such file"),
        ("scale a.ckpt nan --out x.ckpt", "finite number"),
        ("scale a.ckpt -1 --otu x.ckpt", "No such option: --otu"),
        ("scale -1 --out x.ckpt", "Missing argument"),
        ("compress a.ckpt --out x.ckpt", "--rank or --energy is missing"),
        ("compress a.ckpt --rank 0 --out x.ckpt", "must be at least 1"),
        ("extract --base gpt2 --out x.ckpt --rank 1", "--tuned is missing"),
        ("extract --base gpt2 --tuned other --out x.ckpt --target nothing --rank 2", "matches no linear layer"),
        ("diff a.ckpt c.ckpt", "belong to different bases"),
        ("info gpt2", "is not a delta"),
    ):
        done = petrun(f"delta {line}")
        assert done.code in (1, 2) and words in " ".join(done.err.split()), (line, done.err)
        assert "Traceback" not in done.err and not (here / "x.ckpt").exists(), line


def test_several_deltas_merge_as_their_sum_does(here, petrun):
    assert petrun("delta add a.ckpt:0.7 b.safetensors:0.3 --out sum.ckpt").code == 0
    want = merged("sum.ckpt", "one")
    done = petrun("merge --base gpt2 --delta a.ckpt:0.7 --delta b.safetensors:0.3 --out two")
    assert done.code == 0, done.err
    found = load_file("two/model.safetensors")
    for name, values in want.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-6)
    for line, words in (
        ("merge --base gpt2 --delta a.ckpt:x --out three", "'x' is not a weight"),
        ("merge --base gpt2 --out three", "--delta is missing"),
    ):
        done = petrun(line)
        assert done.code == 2 and words in done.err and not (here / "three").exists()


def rewrite(source, out, dtype):
    """The same model in another type."""
    shutil.copytree(source, out)
    write_safetensors(
        out / "model.safetensors", array_entries(load_file(source / "model.safetensors"), dtype), {"format": "pt"}
    )


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama"])
def test_a_merge_proves_itself_and_goes_back(tmp_path, monkeypatch, petrun, family):
    monkeypatch.chdir(tmp_path)
    base = write_base(tmp_path / "base", family)
    make_delta(base, family, "lora", tmp_path / "d.ckpt", {**LORA, "variant": "rslora"})
    done = petrun("merge --base base --delta d.ckpt --out merged --prove")
    assert done.code == 0 and "proof on 8 rows of random tokens" in done.out and "100.00%" in done.out, (
        done.err + done.out
    )
    largest = float(re.search(r"at most (\S+) in a logit", done.out)[1])
    moved = float(re.search(r"by up to (\S+)\)", done.out)[1])
    assert largest < 1e-4 < 0.01 < moved
    # Another delta's merge in its place is found out, and nothing is left of it.
    monkeypatch.setattr(probe, "set_delta", lambda assembled, delta: None)
    done = petrun("merge --base base --delta d.ckpt --out other --prove")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert done.code == 1 and "the merged model is not base + delta" in done.err and not (tmp_path / "other").exists()
    # In float32 a value comes back to within its rounding.
    done = petrun("unmerge --merged merged --delta d.ckpt --out back")
    assert done.code == 0 and ("bit for bit" in done.out), done.err
    want, found = load_file("base/model.safetensors"), load_file("back/model.safetensors")
    assert want.keys() == found.keys()
    for name, values in want.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-6)


def test_a_narrow_base_comes_back_to_the_bit(tmp_path, monkeypatch, petrun):
    monkeypatch.chdir(tmp_path)
    rewrite(write_base(tmp_path / "wide", "llama"), tmp_path / "base", "bfloat16")
    make_delta(tmp_path / "base", "llama", "lora", tmp_path / "d.ckpt", LORA)
    text = tmp_path / "probe.txt"
    text.write_text("a film\n\nis good\n")
    done = petrun("merge --base base --delta d.ckpt --out merged --dtype float32 --prove --probe probe.txt")
    assert done.code == 0 and "2 rows of probe.txt" in done.out, done.err
    done = petrun("unmerge --merged merged --delta d.ckpt --out back --dtype bfloat16")
    assert "this is the base, bit for bit" in done.out, done.err + done.out
    one, other = open_tensors("base"), open_tensors("back")
    assert all(one.read_raw(name) == other.read_raw(name) for name in one.names)
    # Rounded to bfloat16 the merge is near, and a tight tolerance says so.
    done = petrun("merge --base base --delta d.ckpt --out narrow --prove")
    assert done.code == 0 and "tolerance 0.5" in done.out, done.err
    done = petrun("merge --base base --delta d.ckpt --out strict --prove --tolerance 1e-5")
    assert done.code == 1 and "the tolerance is 1e-05" in done.err and not (tmp_path / "strict").exists()


def test_no_way_back(here, petrun):
    make_delta(here / "gpt2", "gpt2", "lora+bitfit", here / "biases.ckpt", LORA)
    make_delta(here / "gpt2", "gpt2", "lora", here / "dora.ckpt", {**LORA, "variant": "dora"})
    for line, words in (
        ("unmerge --merged gpt2 --delta biases.ckpt --out x", "the base's values are gone"),
        ("unmerge --merged gpt2 --delta dora.ckpt --out x", "magnitudes multiply"),
        ("unmerge --merged gpt2 --out x", "--delta is missing"),
        ("merge --base gpt2 --delta a.ckpt --out x --tolerance 1", "are for --prove"),
        ("merge --base gpt2 --delta a.ckpt --out x --prove --probe none.txt", "none.txt: no such data file"),
        ("merge --base gpt2 --delta a.ckpt --out x --prove --tolerance 0", "must be above 0"),
    ):
        done = petrun(line)
        assert done.code in (1, 2) and words in done.err and not (here / "x").exists(), (line, done.err)


def test_export_writes_for_vllm_and_llama_cpp(tmp_path, monkeypatch, petrun):
    """The folder and the file hold the numbers of the peft adapter; what the tool would refuse is refused, and nothing is left."""
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "llama", "llama")
    make_delta(tmp_path / "llama", "llama", "lora", tmp_path / "a.ckpt", {**LORA, "target": ("q", "v")})
    make_delta(tmp_path / "llama", "llama", "ia3", tmp_path / "ia3.ckpt", {})
    assert petrun("export a.ckpt --to peft --base llama --out adapter").code == 0
    theirs = load_file("adapter/adapter_model.safetensors")
    done = petrun("export a.ckpt --to vllm --base llama --out served")
    assert done.code == 0, done.err
    assert "--max-lora-rank 8 --lora-modules served=served" in done.out
    ours = load_file("served/adapter_model.safetensors")
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    gguf = pytest.importorskip("gguf")
    done = petrun("export a.ckpt --base llama --out a.gguf")
    assert done.code == 0 and "--lora a.gguf" in done.out, done.err
    held = {tensor.name: tensor.data for tensor in gguf.GGUFReader("a.gguf").tensors}
    assert len(held) == len(theirs)
    np.testing.assert_array_equal(
        held["blk.0.attn_v.weight.lora_b"], theirs["base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight"]
    )
    assert not np.array_equal(
        held["blk.0.attn_q.weight.lora_b"], theirs["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"]
    ), "rows of q are in llama.cpp's order"
    for line, words in (
        ("export ia3.ckpt --to vllm --base llama --out no", "this is IA3"),
        ("export ia3.ckpt --to gguf --base llama --out no.gguf", "it is IA3"),
        ("export a.ckpt --to gguf --base llama --out a.gguf", "a.gguf: exists"),
        ("export a.ckpt --to gguf --base llama --out no.bin", "ends in .gguf"),
        ("export a.ckpt --to ollama --base llama --out no", "--to ollama is unknown"),
    ):
        done = petrun(line)
        assert done.code != 0 and words in done.err, done.err
    assert not list(tmp_path.glob("no*"))
