"""Delta files: saved, read and verified; and everything that is not one."""

import json
import shutil

import mindspore as ms
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from petrun.checkpoint.delta import BaseIdentity, Manifest, check_delta, read_delta, save_delta
from petrun.errors import DeltaError, OutputError, WeightsError
from petrun.tensors import array_entries, open_tensors, write_ckpt, write_safetensors

ARRAYS = {
    "q.mindpet_delta_lora_b": np.arange(6, dtype=np.float32).reshape(3, 2),
    "q.mindpet_delta_lora_a": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4),
    "tokens": np.array([3, 1, 2], np.int32),
}
MANIFEST = Manifest(algo="lora", config={"rank": 2, "target": ("q",)}, base=BaseIdentity(digest="d"), step=7)
FORMATS = ("lora.ckpt", "lora.safetensors")


@pytest.fixture(params=FORMATS)
def saved(request, tmp_path):
    path = tmp_path / request.param
    save_delta(path, ARRAYS, MANIFEST)
    return path


def rewrite(path, arrays):
    """Another file of these arrays with the manifest of `path`."""
    metadata = open_tensors(path).metadata
    write = write_ckpt if path.suffix == ".ckpt" else write_safetensors
    write(path, array_entries(arrays), metadata)


def test_round_trip(tmp_path, saved):
    delta = read_delta(saved)
    assert (delta.origin, delta.algo, delta.config) == ("petrun", "lora", {"rank": 2, "target": ["q"]})
    assert delta.manifest.owned == tuple(sorted(ARRAYS)) and delta.manifest.step == 7
    assert delta.shapes == {n: a.shape for n, a in ARRAYS.items()}
    assert dict(delta.tensors).keys() == ARRAYS.keys() and len(delta.tensors) == 3
    for name, want in ARRAYS.items():
        assert delta.tensors[name].dtype == want.dtype
        np.testing.assert_array_equal(delta.tensors[name], want)
    assert delta.manifest == save_delta(tmp_path / "again.ckpt", delta.tensors, MANIFEST)


def test_the_digest_is_of_the_content_alone(tmp_path):
    digests = set()
    for name in FORMATS:
        for arrays in (ARRAYS, dict(reversed(ARRAYS.items()))):
            digests.add(save_delta(tmp_path / name, arrays, MANIFEST).digest)
    assert len(digests) == 1
    assert (
        save_delta(tmp_path / "a.ckpt", {**ARRAYS, "tokens": np.array([3, 1, 4], np.int32)}, MANIFEST).digest
        not in digests
    )


def test_mindspore_loads_it(tmp_path):
    save_delta(tmp_path / "lora.ckpt", ARRAYS, MANIFEST)
    loaded = ms.load_checkpoint(str(tmp_path / "lora.ckpt"))
    assert json.loads(loaded.pop("petrun_manifest"))["algo"] == "lora"
    for name, want in ARRAYS.items():
        np.testing.assert_array_equal(loaded[name].asnumpy(), want)


def test_the_safetensors_library_loads_it(tmp_path):
    save_delta(tmp_path / "lora.safetensors", ARRAYS, MANIFEST)
    with safe_open(tmp_path / "lora.safetensors", "np") as file:
        assert json.loads(file.metadata()["petrun_manifest"])["config"] == {"rank": 2, "target": ["q"]}


def test_half_precision_comes_as_float32(tmp_path):
    arrays = {"w": np.array([1.5, 65504], np.float16), "d": np.array([0.1], np.float64)}
    save_delta(tmp_path / "a.ckpt", arrays, MANIFEST)
    delta = read_delta(tmp_path / "a.ckpt")
    assert delta.tensors["w"].dtype == delta.tensors["d"].dtype == np.float32
    np.testing.assert_array_equal(delta.tensors["w"], arrays["w"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path, bad):
    arrays = {**ARRAYS, "w": np.array([1, bad, bad], np.float32)}
    with pytest.raises(DeltaError, match="w holds NaN or infinity in 2 of 3 values") as caught:
        save_delta(tmp_path / "a.ckpt", arrays, MANIFEST)
    assert "learning rate" in caught.value.hint and list(tmp_path.iterdir()) == []
    manifest = MANIFEST.model_copy(update={"owned": tuple(sorted(arrays))})
    write_ckpt(tmp_path / "b.ckpt", array_entries(arrays), {"petrun_manifest": manifest.to_json()})
    with pytest.raises(DeltaError, match=r"b\.ckpt: w holds NaN or infinity"):
        read_delta(tmp_path / "b.ckpt")


def test_nothing_to_save_and_wrong_ending(tmp_path):
    with pytest.raises(DeltaError, match="nothing to save"):
        save_delta(tmp_path / "a.ckpt", {}, MANIFEST)
    with pytest.raises(OutputError, match=r"a delta file ends in \.ckpt or \.safetensors"):
        save_delta(tmp_path / "a.bin", ARRAYS, MANIFEST)


def test_other_values_than_saved(saved):
    rewrite(saved, {**ARRAYS, "q.mindpet_delta_lora_b": ARRAYS["q.mindpet_delta_lora_b"] + 1e-6})
    with pytest.raises(DeltaError, match="its tensors are not those it was saved with"):
        read_delta(saved)


def test_other_tensors_than_listed(saved):
    rewrite(saved, {**ARRAYS, "extra": np.ones(1, np.float32)})
    with pytest.raises(DeltaError, match=r"holds extra, against its manifest \(0 lacking, 1 foreign tensors\)"):
        read_delta(saved)
    rewrite(saved, {"tokens": ARRAYS["tokens"]})
    with pytest.raises(DeltaError, match=r"lacks q.mindpet_delta_lora_a, against its manifest \(2 lacking"):
        read_delta(saved)


def test_every_truncation_is_a_delta_error(tmp_path, saved):
    content = saved.read_bytes()
    cut = tmp_path / f"cut{saved.suffix}"
    for length in range(0, len(content), 7):
        cut.write_bytes(content[:length])
        with pytest.raises(DeltaError):
            read_delta(cut)


def test_not_a_delta(tmp_path):
    save_file({"bert.weight": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(DeltaError, match="is not a delta") as caught:
        read_delta(tmp_path / "model.safetensors")
    assert "--base" in caught.value.hint
    (tmp_path / "page.ckpt").write_text("<!DOCTYPE html>")
    with pytest.raises(DeltaError, match="is a web page"):
        read_delta(tmp_path / "page.ckpt")
    with pytest.raises(DeltaError, match="no such file or folder"):
        read_delta(tmp_path / "none.ckpt")


class TestFolders:
    def test_the_final_delta_of_a_run(self, tmp_path):
        run = tmp_path / "lora-1"
        run.mkdir()
        (run / "run.yaml").write_text("algo: lora")
        save_delta(run / "best.ckpt", ARRAYS, MANIFEST.model_copy(update={"step": 3}))
        with pytest.raises(DeltaError, match=r"holds no final delta, only best\.ckpt: the run did not end") as caught:
            read_delta(run)
        assert str(run / "best.ckpt") in caught.value.hint
        save_delta(run / "lora.ckpt", ARRAYS, MANIFEST)
        delta = read_delta(run)
        assert delta.path == run / "lora.ckpt" and delta.manifest.step == 7
        write_safetensors(run / "logits.safetensors", array_entries({"logits": np.ones(3, np.float32)}))
        assert read_delta(run).path == run / "lora.ckpt"

    def test_safetensors_run(self, tmp_path):
        save_delta(tmp_path / "lora.safetensors", ARRAYS, MANIFEST)
        assert read_delta(tmp_path).path.name == "lora.safetensors"

    def test_several(self, tmp_path):
        save_delta(tmp_path / "lora.safetensors", ARRAYS, MANIFEST)
        save_delta(tmp_path / "lora.ckpt", ARRAYS, MANIFEST)
        with pytest.raises(DeltaError, match=r"holds several deltas: lora\.ckpt, lora\.safetensors"):
            read_delta(tmp_path)

    def test_the_newest_step(self, tmp_path):
        """MindPet's checkpoints by epoch and step: 10 is newer than 9."""
        for step in (9, 10):
            arrays = {f"q.mindpet_delta_lora_{side}": np.full((2, 2), step, np.float32) for side in "ab"}
            write_ckpt(tmp_path / f"DELTA_CKP-{step}_12.ckpt", array_entries(arrays))
        assert read_delta(tmp_path).path.name == "DELTA_CKP-10_12.ckpt"

    def test_none(self, tmp_path):
        with pytest.raises(DeltaError, match="holds no delta"):
            read_delta(tmp_path)
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(DeltaError, match="is a model folder, not a delta"):
            read_delta(tmp_path)

    def test_peft_adapter(self, write_adapter):
        folder = write_adapter({"base_model.model.q.lora_A.weight": np.ones((2, 4), np.float32)})
        for path in (folder, folder / "adapter_model.safetensors", folder / "adapter_config.json"):
            delta = read_delta(path)
            assert (delta.origin, delta.algo, delta.path) == ("peft", "", folder) and delta.config["r"] == 2

    def test_broken_peft_adapters(self, tmp_path, write_adapter):
        folder = write_adapter({"base_model.model.q.lora_A.weight": np.ones((2, 4), np.float32)})
        alone = tmp_path / "alone.safetensors"
        shutil.copy(folder / "adapter_model.safetensors", alone)
        with pytest.raises(DeltaError, match=r"is a peft adapter's weights without its adapter_config\.json"):
            read_delta(alone)
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        with pytest.raises(DeltaError, match=r"adapter_model\.bin: is a pickle") as caught:
            read_delta(folder)
        assert "safe_serialization=True" in caught.value.hint
        (folder / "adapter_model.bin").unlink()
        with pytest.raises(DeltaError, match=r"lacks adapter_model\.safetensors"):
            read_delta(folder)
        for text, message in (("{", "is not valid JSON"), ("[]", "is not a JSON object")):
            (folder / "adapter_config.json").write_text(text)
            with pytest.raises(DeltaError, match=message):
                read_delta(folder)


def test_check_delta_tells_everything_at_once(tmp_path):
    save_delta(tmp_path / "a.ckpt", ARRAYS, MANIFEST)
    delta = read_delta(tmp_path / "a.ckpt")
    check_delta(delta, {n: a.shape for n, a in ARRAYS.items()})
    with pytest.raises(DeltaError) as caught:
        check_delta(
            delta, {"k.mindpet_delta_lora_a": (2, 4), "q.mindpet_delta_lora_b": (3, 2), "tokens": (4,), "head": (1, 1)}
        )
    message = caught.value.message
    assert "k.mindpet_delta_lora_a (2, 4) is missing. Did you mean q.mindpet_delta_lora_a?" in message
    assert "q.mindpet_delta_lora_a (2, 4) fits nothing. Did you mean k.mindpet_delta_lora_a?" in message
    assert "head (1, 1) is missing." in message
    assert "tokens is (3), must be (4)" in message
    assert "q.mindpet_delta_lora_b" not in message and "--base" in caught.value.hint


def test_check_delta_lists_no_more_than_twenty(tmp_path):
    save_delta(tmp_path / "a.ckpt", ARRAYS, MANIFEST)
    with pytest.raises(DeltaError, match=r"\.\.\. and 13 more"):
        check_delta(read_delta(tmp_path / "a.ckpt"), {f"layer.{i}": (1,) for i in range(30)})


def test_a_delta_is_read_when_asked_for(tmp_path):
    """The values are not held: what is read later comes from the file."""
    save_delta(tmp_path / "a.safetensors", ARRAYS, MANIFEST)
    tensors = read_delta(tmp_path / "a.safetensors").tensors
    assert "tokens" in tensors and "nothing" not in tensors
    with pytest.raises(KeyError):
        tensors["nothing"]
    assert load_file(tmp_path / "a.safetensors")["tokens"].tolist() == tensors["tokens"].tolist()
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(WeightsError, match="no such file or folder"):
        tensors["tokens"]
