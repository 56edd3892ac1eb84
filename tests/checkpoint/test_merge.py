"""Merging: the arithmetic, the layouts, the files, and that nothing is half done."""

import errno
import json
import os
import tracemalloc

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from petrun.checkpoint import merge_checks
from petrun.checkpoint.delta import BaseIdentity, Manifest, read_delta, save_delta
from petrun.checkpoint.hf_config import merged_config
from petrun.checkpoint.merge import FolderSettings, MergeBase, merge_to_file, merge_to_folder
from petrun.delta.full import FullConfig
from petrun.delta.lora import LORA_A, LORA_B, LoraConfig
from petrun.delta.lora import merge as merge_lora
from petrun.delta.method import same_values as merge_full
from petrun.errors import DeltaError, OutputError, WeightsError
from petrun.interop.convert import to_net_names
from petrun.models.base import StoredName
from petrun.tensors import (
    TensorEntry,
    array_entries,
    atomic,
    from_bfloat16,
    open_tensors,
    to_bfloat16,
    write_ckpt,
    write_safetensors,
)
from tests.checkpoint.toy_family import HIDDEN, IGNORED, NAMES, PREFIXES, lora_arrays, stored_form

PATHS = ("layers.0.attn.q", "layers.1.attn.v", "layers.1.mlp.up")
HEAD = {
    "classifier.weight": np.full((3, HIDDEN), 0.25, np.float32),
    "classifier.bias": np.arange(3, dtype=np.float32),
}
CONFIG = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": HIDDEN}


@pytest.fixture
def delta(make_delta):
    return make_delta({**lora_arrays(PATHS), **HEAD})


def expected(base_arrays, delta, scale=2.0):
    """Merged parameters in the net's names and layout; the formula, written again."""
    want = dict(base_arrays)
    for path in PATHS:
        product = delta.tensors[f"{path}.{LORA_B}"] @ delta.tensors[f"{path}.{LORA_A}"]
        want[f"{path}.weight"] = base_arrays[f"{path}.weight"] + np.float32(scale) * product
    return {**want, **HEAD}


def folded(delta):
    if delta.algo == "full":
        return merge_full(FullConfig(), delta.tensors)
    return merge_lora(LoraConfig(**delta.config), delta.tensors)


def merge(base, delta, out, **options):
    """merge_to_folder or merge_to_file, by `out`, with the toy family's names."""
    family = {"names": NAMES, "prefixes": PREFIXES, "ignored": IGNORED}
    base = MergeBase(reader=open_tensors(base), **{key: options.pop(key, value) for key, value in family.items()})
    dtype = options.pop("dtype", None)
    if out.suffix:
        return merge_to_file(base, delta, folded(delta), out, dtype=dtype)
    return merge_to_folder(
        base,
        delta,
        folded(delta),
        out,
        FolderSettings(**{"config": CONFIG, "architecture": "BertForSequenceClassification", **options}),
        dtype=dtype,
    )


class TestFolder:
    def test_values_names_and_layouts(self, tmp_path, base_folder, base_arrays, delta):
        out = tmp_path / "deep" / "merged"
        merged = merge(base_folder, delta, out, companions=base_folder, labels=("a", "b", "c"))
        want = stored_form(expected(base_arrays, delta))
        got = load_file(out / "model.safetensors")
        assert got.keys() == want.keys()
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=0, atol=1e-6)
        assert got["model.h.1.mlp.c_fc.weight"].shape == (6, 8)
        changed = {f"{p}.weight" for p in PATHS} | HEAD.keys()
        assert set(merged.changed) == changed and merged.tensors == len(want)
        assert merged.nbytes == sum(a.nbytes for a in want.values()) and merged.path == out
        assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]
        assert (out / "vocab.txt").read_bytes() == (base_folder / "vocab.txt").read_bytes()

    def test_what_the_delta_leaves_alone_keeps_its_bytes(self, tmp_path, base_folder, base_arrays, delta):
        merge(base_folder, delta, tmp_path / "merged")
        got, base = load_file(tmp_path / "merged" / "model.safetensors"), stored_form(base_arrays)
        touched = {NAMES[f"{p}.weight"].name for p in PATHS}
        assert len(base.keys() - touched) == 7
        for name in base.keys() - touched:
            assert got[name].tobytes() == base[name].tobytes()

    def test_config(self, tmp_path, base_folder, delta):
        merge(base_folder, delta, tmp_path / "merged", labels=("neg", "neu", "pos"), dtype="float16")
        config = json.loads((tmp_path / "merged" / "config.json").read_text())
        assert config == {
            "model_type": "bert",
            "architectures": ["BertForSequenceClassification"],
            "hidden_size": HIDDEN,
            "id2label": {"0": "neg", "1": "neu", "2": "pos"},
            "label2id": {"neg": 0, "neu": 1, "pos": 2},
            "torch_dtype": "float16",
        }

    def test_shards(self, tmp_path, base_folder, base_arrays, delta):
        merged = merge(base_folder, delta, tmp_path / "merged", max_shard_bytes=500)
        whole = merge(base_folder, delta, tmp_path / "whole")
        assert len(list((tmp_path / "merged").glob("model-*.safetensors"))) > 2
        assert merged.digest == whole.digest
        reader = open_tensors(tmp_path / "merged")
        assert set(reader.names) == set(stored_form(expected(base_arrays, delta)))

    def test_a_headless_base_becomes_complete(self, tmp_path, base_folder, base_arrays, delta):
        """The inner model's file lacks "model." and carries buffers and another task's head."""
        short = {n.removeprefix("model."): a for n, a in stored_form(base_arrays).items()}
        extra = {"position_ids": np.arange(4), "cls.bias": np.ones(2, np.float32)}
        save_file({**short, **extra}, base_folder / "model.safetensors")
        merge(base_folder, delta, tmp_path / "merged")
        got = load_file(tmp_path / "merged" / "model.safetensors")
        assert got.keys() == stored_form(expected(base_arrays, delta)).keys()

    def test_a_new_head_takes_the_place_of_the_bases(self, tmp_path, base_folder, base_arrays, delta):
        old = {"classifier.weight": np.ones((2, HIDDEN), np.float32), "classifier.bias": np.zeros(2, np.float32)}
        save_file({**stored_form(base_arrays), **old}, base_folder / "model.safetensors")
        config = {**CONFIG, "id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}, "num_labels": 2}
        merge(base_folder, delta, tmp_path / "merged", config=config)
        got = load_file(tmp_path / "merged" / "model.safetensors")
        np.testing.assert_array_equal(got["classifier.weight"], HEAD["classifier.weight"])
        written = json.loads((tmp_path / "merged" / "config.json").read_text())
        assert written["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"} and written["num_labels"] == 3

    def test_a_matrix_stored_twice_stays_so(self, tmp_path, base_folder, base_arrays, make_delta):
        trained = {n: a + 1 for n, a in base_arrays.items()}
        delta = make_delta({**trained, **HEAD}, "full")
        stored = stored_form(base_arrays)
        save_file({**stored, "lm_head.weight": stored["model.embed.weight"]}, base_folder / "model.safetensors")
        merge(base_folder, delta, tmp_path / "merged")
        got = load_file(tmp_path / "merged" / "model.safetensors")
        np.testing.assert_array_equal(got["lm_head.weight"], trained["embed.weight"])
        np.testing.assert_array_equal(got["model.embed.weight"], trained["embed.weight"])

    def test_a_tied_matrix_stored_once_stays_so(self, tmp_path, base_folder, delta):
        merge(base_folder, delta, tmp_path / "merged")
        assert "lm_head.weight" not in load_file(tmp_path / "merged" / "model.safetensors")

    def test_full(self, tmp_path, base_folder, base_arrays, make_delta):
        trained = {**{n: a * 2 for n, a in base_arrays.items()}, **HEAD}
        merged = merge(base_folder, make_delta(trained, "full"), tmp_path / "merged")
        got = load_file(tmp_path / "merged" / "model.safetensors")
        for name, want in stored_form(trained).items():
            np.testing.assert_array_equal(got[name], want)
        assert set(merged.changed) == set(trained)

    def test_a_matrix_that_is_both_replaced_and_adapted(self, tmp_path, base_folder, base_arrays, make_delta):
        arrays = {**lora_arrays(["layers.0.attn.q"]), **HEAD, "layers.0.attn.q.weight": np.ones((6, 6), np.float32)}
        delta = make_delta(arrays)
        merge(base_folder, delta, tmp_path / "merged")
        product = arrays[f"layers.0.attn.q.{LORA_B}"] @ arrays[f"layers.0.attn.q.{LORA_A}"]
        got = load_file(tmp_path / "merged" / "model.safetensors")["model.h.0.attn.query.weight"]
        np.testing.assert_allclose(got, 1 + 2 * product, rtol=1e-6, atol=1e-6)


class TestTypes:
    @pytest.fixture
    def half_base(self, tmp_path, base_arrays):
        """Every matrix bfloat16, the norm float32, as some models are stored."""

        def write(dtype):
            stored = stored_form(base_arrays)
            kinds = {n: "float32" if "ln_f" in n else dtype for n in stored}
            path = tmp_path / f"{dtype}.safetensors"
            write_safetensors(path, [TensorEntry(n, a.shape, kinds[n], lambda a=a: a) for n, a in stored.items()])
            return path

        return write

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_sums_in_float32_and_keeps_the_bases_type(self, tmp_path, half_base, base_arrays, delta, dtype):
        merge(half_base(dtype), delta, tmp_path / "merged")
        reader = open_tensors(tmp_path / "merged")
        rounded = {n: a if "norm" in n else round_to(a, dtype) for n, a in base_arrays.items()}
        for name, want in stored_form(expected(rounded, delta)).items():
            kind = "float32" if "ln_f" in name else dtype
            assert reader.info(name).dtype == kind, name
            np.testing.assert_array_equal(reader.read(name), round_to(want, kind).astype(reader.read(name).dtype))

    def test_another_type_when_asked(self, tmp_path, half_base, delta):
        merge(half_base("bfloat16"), delta, tmp_path / "merged", dtype="float32")
        reader = open_tensors(tmp_path / "merged")
        assert {reader.info(n).dtype for n in reader.names} == {"float32"}
        with pytest.raises(OutputError, match="int8: not a floating type"):
            merge(half_base("bfloat16"), delta, tmp_path / "other", dtype="int8")

    def test_overflow_is_told(self, tmp_path, half_base, make_delta):
        arrays = lora_arrays(["layers.0.attn.q"])
        arrays[f"layers.0.attn.q.{LORA_B}"] *= 1e6
        with pytest.raises(
            DeltaError, match=r"model\.h\.0\.attn\.query\.weight: holds .*, which float16 cannot"
        ) as caught:
            merge(half_base("float16"), make_delta({**arrays, **HEAD}), tmp_path / "merged")
        assert "bfloat16" in caught.value.hint and not (tmp_path / "merged").exists()

    def test_what_is_not_finite_is_told(self, tmp_path, base_folder, base_arrays, delta):
        base_arrays["norm.weight"][2] = np.nan
        save_file(stored_form(base_arrays), base_folder / "model.safetensors")
        with pytest.raises(DeltaError, match=r"model\.ln_f\.weight: the merged tensor holds NaN"):
            merge(base_folder, delta, tmp_path / "merged")


def round_to(values, dtype):
    if dtype == "bfloat16":
        return from_bfloat16(to_bfloat16(values)).reshape(values.shape)
    return values.astype(dtype).astype(np.float32)


class TestFile:
    def test_safetensors_in_hugging_faces_names(self, tmp_path, base_folder, base_arrays, delta):
        merge(base_folder, delta, tmp_path / "merged.safetensors")
        got = load_file(tmp_path / "merged.safetensors")
        for name, want in stored_form(expected(base_arrays, delta)).items():
            np.testing.assert_allclose(got[name], want, rtol=0, atol=1e-6)

    def test_ckpt_in_the_nets_names_and_layout(self, tmp_path, base_folder, base_arrays, delta):
        merge(base_folder, delta, tmp_path / "merged.ckpt")
        loaded = ms.load_checkpoint(str(tmp_path / "merged.ckpt"))
        want = expected(base_arrays, delta)
        assert loaded.keys() == want.keys()
        for name in want:
            np.testing.assert_allclose(loaded[name].asnumpy(), want[name], rtol=0, atol=1e-6)

    def test_from_a_ckpt_base_the_same_folder(self, tmp_path, base_folder, base_arrays, delta):
        write_ckpt(
            tmp_path / "base.ckpt", array_entries({**base_arrays, "moment1.norm.weight": base_arrays["norm.weight"]})
        )
        first = merge(base_folder, delta, tmp_path / "one")
        second = merge(tmp_path / "base.ckpt", delta, tmp_path / "two")
        assert first.digest == second.digest

    def test_a_users_own_cell(self, tmp_path, make_delta):
        arrays = {"fc1.weight": np.eye(4, dtype=np.float32), "fc1.bias": np.zeros(4, np.float32), "steps": np.arange(3)}
        write_ckpt(tmp_path / "base.ckpt", array_entries({**arrays, "learning_rate": np.float32(1).reshape(())}))
        a, b = np.ones((2, 4), np.float32), np.ones((4, 2), np.float32)
        delta = make_delta({f"fc1.{LORA_A}": a, f"fc1.{LORA_B}": b})
        for suffix in (".ckpt", ".safetensors"):
            merge(tmp_path / "base.ckpt", delta, tmp_path / f"merged{suffix}", names={}, prefixes=("",), ignored=())
            reader = open_tensors(tmp_path / f"merged{suffix}")
            assert set(reader.names) == set(arrays)
            np.testing.assert_array_equal(reader.read("fc1.weight"), np.eye(4) + 4)
            np.testing.assert_array_equal(reader.read("steps"), arrays["steps"])

    def test_endings_and_existing_files(self, tmp_path, base_folder, delta):
        with pytest.raises(OutputError, match=r"ends in \.ckpt or \.safetensors"):
            merge(base_folder, delta, tmp_path / "merged.bin")
        (tmp_path / "there.ckpt").write_text("x")
        with pytest.raises(OutputError, match=r"there\.ckpt: exists"):
            merge(base_folder, delta, tmp_path / "there.ckpt")


MISFITS = {
    "unknown layer": (lora_arrays(["layers.0.attn.q"]) | {f"layers.9.attn.q.{LORA_A}": np.ones((2, 6), np.float32)},
                      r"layers\.9\.attn\.q\.mindpet_delta_lora_a fits nothing\. Did you mean"),
    "inputs": ({**lora_arrays(["layers.0.attn.q"]), f"layers.0.attn.q.{LORA_A}": np.ones((2, 5), np.float32)},
               r"lora_a is \[2, 5\], its layer has 6 inputs"),
    "outputs": ({**lora_arrays(["layers.0.mlp.up"]), f"layers.0.mlp.up.{LORA_B}": np.ones((6, 2), np.float32)},
                r"lora_b is \[6, 2\], its layer has 8 outputs"),
    "parameter": ({"norm.weight": np.ones(7, np.float32)}, r"norm\.weight is \[7\], the base's is \[6\]"),
}  # fmt: skip


class TestRefusals:
    @pytest.mark.parametrize("case", MISFITS)
    def test_deltas_that_do_not_fit(self, tmp_path, base_folder, make_delta, case):
        arrays, message = MISFITS[case]
        with pytest.raises(DeltaError, match=message) as caught:
            merge(base_folder, make_delta({**arrays, **HEAD}), tmp_path / "merged")
        assert "--base" in caught.value.hint and not (tmp_path / "merged").exists()

    @pytest.mark.parametrize("out", ["merged", "merged.ckpt", "merged.safetensors"])
    def test_tensors_that_the_method_does_not_use(self, tmp_path, base_folder, make_delta, out):
        delta = make_delta(
            {**lora_arrays(PATHS), **HEAD, "layers.0.attn.v.mindpet_delta_other": np.ones(2, np.float32)}
        )
        with pytest.raises(DeltaError, match=r"1 tensors were not used by the merge, the first is layers\.0\.attn\.v"):
            merge(base_folder, delta, tmp_path / out)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "delta.ckpt"]

    def test_bases_that_do_not_fit(self, tmp_path, base_folder, base_arrays, delta, make_delta):
        stored = stored_form(base_arrays)
        save_file({k: v for k, v in stored.items() if "ln_f" not in k}, base_folder / "model.safetensors")
        with pytest.raises(WeightsError, match=r"model\.ln_f\.weight is missing"):
            merge(base_folder, delta, tmp_path / "merged")
        save_file({**stored, "model.h.2.x": np.ones(1, np.float32)}, base_folder / "model.safetensors")
        with pytest.raises(WeightsError, match=r"model\.h\.2\.x belongs to no parameter"):
            merge(base_folder, delta, tmp_path / "merged")
        save_file(stored, base_folder / "model.safetensors")
        with pytest.raises(WeightsError, match=r"classifier\.bias is neither here nor in the delta"):
            merge(base_folder, make_delta(lora_arrays(PATHS)), tmp_path / "merged")

    def test_occupied_output(self, tmp_path, base_folder, delta):
        out = tmp_path / "merged"
        out.mkdir()
        merge(base_folder, delta, out)
        before = {p.name: p.read_bytes() for p in out.iterdir()}
        with pytest.raises(OutputError, match="exists and is not an empty folder"):
            merge(base_folder, delta, out)
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before

    def test_too_small_a_disk_is_told_before_the_work(self, tmp_path, base_folder, delta, monkeypatch):
        monkeypatch.setattr(merge_checks.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
        for out in ("merged", "merged.ckpt"):
            with pytest.raises(OutputError, match=r"needs 1\.4 kB, its disk has 1\.0 kB free"):
                merge(base_folder, delta, tmp_path / out)

    @pytest.mark.parametrize("out", ["merged", "merged.ckpt", "merged.safetensors"])
    def test_a_failure_in_the_middle_leaves_nothing(self, tmp_path, base_folder, delta, monkeypatch, out):
        def full(*args):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(atomic.os, "fsync", full)
        with pytest.raises(OutputError, match="No space left on device"):
            merge(base_folder, delta, tmp_path / out)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "delta.ckpt"]

    def test_an_update_that_changes_a_shape(self, tmp_path, base_folder, delta):
        reader = open_tensors(base_folder)
        with pytest.raises(DeltaError, match=r"changes the shape of .* from"):
            base = MergeBase(reader=reader, names=NAMES, prefixes=PREFIXES, ignored=IGNORED)
            merge_to_file(base, delta, lambda n, v, rows: v[:1], tmp_path / "m.ckpt")


def test_one_tensor_in_memory_at_a_time(tmp_path, make_delta):
    """24 tensors of 1 MB: the peak is a few of them, not the model."""
    size = 512
    names = {f"l{i}.weight": StoredName(name=f"m.l{i}.weight") for i in range(24)}
    rows = np.ones((size, size), np.float32)
    write_safetensors(
        tmp_path / "b.safetensors", [TensorEntry(s.name, rows.shape, "float32", lambda: rows) for s in names.values()]
    )
    arrays = {}
    for i in range(24):
        arrays |= {f"l{i}.{LORA_A}": np.ones((2, size), np.float32), f"l{i}.{LORA_B}": np.ones((size, 2), np.float32)}
    delta = make_delta(arrays)
    update = folded(delta)
    tracemalloc.start()
    try:
        base = MergeBase(reader=open_tensors(tmp_path / "b.safetensors"), names=names)
        merged = merge_to_file(base, delta, update, tmp_path / "m.ckpt")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert merged.nbytes == 24 * rows.nbytes and len(merged.changed) == 24
    assert peak < 8 * rows.nbytes


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_dtype_key_keeps_its_name(key):
    config = merged_config({"model_type": "qwen2", key: "bfloat16"}, architecture="Qwen2ForCausalLM", dtype="float32")
    assert config == {"model_type": "qwen2", key: "float32", "architectures": ["Qwen2ForCausalLM"]}


def test_labels_of_the_base_are_kept_where_they_are_as_many():
    raw = {"id2label": {"1": "yes", "0": "no"}, "label2id": {"no": 0, "yes": 1}}
    assert merged_config(raw, classes=2)["id2label"] == {"0": "no", "1": "yes"}
    assert merged_config(raw, classes=2, labels=("x", "y"))["label2id"] == {"x": 0, "y": 1}
    assert merged_config(raw) == raw
    assert merged_config({"model_type": "custom", "architectures": ["Mine"]})["architectures"] == ["Mine"]


CASES = [(family, method) for family in ("bert", "gpt2", "llama", "qwen2") for method in ("lora", "rslora")]


def reference(shared, family, method):
    from petrun.models.families import FAMILIES

    case = shared / "oracle" / "cases" / family
    record = next(f for f in FAMILIES.values() if family in f.model_types)
    config = json.loads((case / "base" / "config.json").read_text())
    names = record.names(record.parse(config))
    delta = to_net_names(read_delta(case / method), names, record.prefixes)
    options = {"names": names, "prefixes": record.prefixes, "ignored": record.ignored}
    return case, delta, config, options


@pytest.mark.parametrize(("family", "method"), CASES)
def test_against_the_reference(tmp_path, shared, family, method):
    case, delta, config, options = reference(shared, family, method)
    merge(case / "base", delta, tmp_path / "merged", config=config, companions=case / "base", **options)
    got, want = open_tensors(tmp_path / "merged"), open_tensors(case / method / "merged.safetensors")
    assert set(want.names) - set(got.names) <= {"lm_head.weight"}
    for name in got.names:
        np.testing.assert_allclose(got.read(name), want.read(name), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("family", "method"), CASES)
def test_transformers_computes_the_reference_from_it(tmp_path, shared, family, method):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    case, delta, config, options = reference(shared, family, method)
    merge(
        case / "base",
        delta,
        tmp_path / "merged",
        config=config,
        companions=case / "base",
        max_shard_bytes=30_000,
        **options,
    )
    kind = "AutoModelForSequenceClassification" if family == "bert" else "AutoModelForCausalLM"
    model, info = getattr(transformers, kind).from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    batch = load_file(case / "batch.safetensors")
    with torch.no_grad():
        inputs = {k: torch.from_numpy(batch[k]) for k in ("input_ids", "attention_mask")}
        logits = model.eval()(**inputs).logits.numpy()
    want = load_file(case / method / "out.safetensors")["logits"]
    seen = np.ones(len(want), bool) if family == "bert" else batch["attention_mask"].astype(bool)
    np.testing.assert_allclose(logits[seen], want[seen], rtol=0, atol=1e-5)


def test_a_large_matrix_comes_in_pieces(tmp_path, monkeypatch):
    """Rows at a time or whole, the merged bytes are the same, for every way to merge; and a base of another type is rounded once."""
    from petrun.checkpoint import merge as module
    from petrun.delta import find_method
    from petrun.tensors.rows import row_blocks

    rng = np.random.default_rng(8)
    weight = rng.standard_normal((12, 6)).astype(np.float32)
    write_safetensors(tmp_path / "base.safetensors", array_entries({"l.weight": weight, "l.bias": weight[:, 0].copy()}))
    write_safetensors(tmp_path / "half.safetensors", array_entries({"l.weight": weight}, "bfloat16"))
    a, b = rng.standard_normal((2, 6)).astype(np.float32), rng.standard_normal((12, 2)).astype(np.float32)
    mark = "l.mindpet_delta_"
    plain = {f"{mark}lora_a": a, f"{mark}lora_b": b}
    started = {f"{mark}lora_a0": a[::-1].copy(), f"{mark}lora_b0": b[::-1].copy()}
    ada = {
        f"{mark}adalora_{k}": v
        for k, v in (("a", a), ("b", b), ("e", a[:, 0].copy()), ("keep", np.ones(2, np.float32)))
    }
    every = {
        "lora": (plain, {"rank": 2}),
        "dora": ({**plain, f"{mark}lora_m": b[:, 0] ** 2}, {"rank": 2, "variant": "dora"}),
        "pissa": ({**plain, **started}, {"rank": 2, "variant": "pissa"}),
        "adalora": (ada, {"rank": 2, "init_rank": 2}),
        "ia3": ({f"{mark}ia3_l": b[:, 0].copy()}, {}),
    }
    for name, (arrays, settings) in every.items():
        method = find_method(name if name in ("adalora", "ia3") else "lora")
        save_delta(tmp_path / f"{name}.ckpt", arrays, Manifest(algo=method.name, base=BaseIdentity(digest="d")))
        delta = read_delta(tmp_path / f"{name}.ckpt")
        update = method.merge(method.config(**settings), delta.tensors)
        base = MergeBase(reader=open_tensors(tmp_path / "base.safetensors"), names={})
        merge_to_file(base, delta, update, tmp_path / f"{name}.safetensors")
        monkeypatch.setattr(module, "row_blocks", lambda reader, stored: row_blocks(reader, stored, 30))
        merge_to_file(base, delta, update, tmp_path / f"{name}-5.safetensors")
        monkeypatch.undo()
        whole, pieces = load_file(tmp_path / f"{name}.safetensors"), load_file(tmp_path / f"{name}-5.safetensors")
        want = update("l.weight", weight)
        for found in (whole, pieces):
            np.testing.assert_allclose(found["l.weight"], want, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(whole["l.bias"], pieces["l.bias"])
        assert np.abs(want - weight).max() > 0.1
    blocks = list(row_blocks(open_tensors(tmp_path / "half.safetensors"), "l.weight", 30))
    assert [rows for rows, _ in blocks] == [slice(0, 5), slice(5, 10), slice(10, 12)]
    np.testing.assert_array_equal(np.concatenate([v for _, v in blocks]), from_bfloat16(to_bfloat16(weight)))


def test_nan_in_what_the_delta_leaves_alone(tmp_path, base_folder, base_arrays, delta):
    for dtype in ("float32", "float16", "bfloat16"):
        broken = stored_form(base_arrays)
        broken["model.embed.weight"] = broken["model.embed.weight"].copy()
        broken["model.embed.weight"][3, 2] = np.inf
        write_safetensors(base_folder / "model.safetensors", array_entries(broken, dtype))
        with pytest.raises(DeltaError, match=r"model\.embed\.weight: the merged tensor holds NaN or infinity"):
            merge(base_folder, delta, tmp_path / "merged")
        assert not (tmp_path / "merged").exists()
