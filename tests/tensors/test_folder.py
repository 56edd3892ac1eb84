"""Hugging Face folders: whole and sharded, and every way a folder can be incomplete."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from petrun.errors import WeightsError
from petrun.tensors import array_entries, open_tensors, write_safetensors_folder

ARRAYS = {f"layer.{i}.weight": np.full((10, 10), i, np.float32) for i in range(5)}


@pytest.fixture
def sharded(tmp_path):
    write_safetensors_folder(tmp_path, array_entries(ARRAYS), {"format": "pt"}, max_shard_bytes=900)
    return tmp_path


def edit_index(folder, change):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def test_one_file(tmp_path):
    write_safetensors_folder(tmp_path, array_entries(ARRAYS))
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    reader = open_tensors(tmp_path)
    assert reader.kind == "folder" and (reader.read("layer.3.weight") == 3).all()


def test_shards_and_their_index(sharded):
    names = sorted(p.name for p in sharded.iterdir())
    assert names == [*(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)), "model.safetensors.index.json"]
    index = json.loads((sharded / names[-1]).read_text())
    assert index["metadata"] == {"total_size": 2000}
    for name, file in index["weight_map"].items():
        np.testing.assert_array_equal(load_file(sharded / file)[name], ARRAYS[name])
    reader = open_tensors(sharded)
    assert reader.metadata == {"format": "pt"}
    for name, want in ARRAYS.items():
        np.testing.assert_array_equal(reader.read(name), want)


def test_a_tensor_larger_than_a_shard_gets_its_own(tmp_path):
    write_safetensors_folder(tmp_path, array_entries(ARRAYS), max_shard_bytes=1)
    assert len(list(tmp_path.glob("model-*-of-00005.safetensors"))) == 5
    assert len(open_tensors(tmp_path)) == 5


def test_a_whole_file_wins_over_an_index(sharded):
    save_file({"other": np.ones(1, np.float32)}, sharded / "model.safetensors")
    assert open_tensors(sharded).names == ("other",)


def test_the_names_that_diffusers_writes(sharded, tmp_path_factory):
    """Given a whole file or shards named diffusion_pytorch_model, they are read; shards without their index are told apart."""
    folder = tmp_path_factory.mktemp("diffusers")
    for path in sharded.iterdir():
        text = path.read_bytes()
        if path.suffix == ".json":
            text = text.replace(b'"model-', b'"diffusion_pytorch_model-')
        (folder / f"diffusion_pytorch_{path.name}").write_bytes(text)
    assert (open_tensors(folder).read("layer.3.weight") == 3).all()
    (folder / "diffusion_pytorch_model.safetensors.index.json").unlink()
    with pytest.raises(WeightsError, match=r"but no diffusion_pytorch_model.safetensors.index.json"):
        open_tensors(folder)
    save_file({"other": np.ones(1, np.float32)}, folder / "diffusion_pytorch_model.safetensors")
    assert open_tensors(folder).names == ("other",)


def test_missing_shard(sharded):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"lacks 1 of 3 shards: model-00002-of-00003.safetensors"):
        open_tensors(sharded)


def test_shard_that_the_index_does_not_name(sharded):
    save_file({"x": np.ones(1, np.float32)}, sharded / "model-00004-of-00004.safetensors")
    with pytest.raises(WeightsError, match=r"shard model-00004-of-00004.safetensors is not named in"):
        open_tensors(sharded)


def test_files_that_are_no_shards_are_left_alone(sharded):
    save_file({"x": np.ones(1, np.float32)}, sharded / "consolidated.safetensors")
    assert len(open_tensors(sharded)) == 5


def test_tensor_that_the_shard_lacks(sharded):
    edit_index(sharded, lambda i: i["weight_map"].update(extra="model-00001-of-00003.safetensors"))
    with pytest.raises(WeightsError, match=r"lacks tensor extra, which model.safetensors.index.json says it holds"):
        open_tensors(sharded)


def test_tensor_that_the_index_does_not_name(sharded):
    edit_index(sharded, lambda i: i["weight_map"].pop("layer.1.weight"))
    with pytest.raises(WeightsError, match=r"holds tensor layer.1.weight, which .*index.json does not place there"):
        open_tensors(sharded)


def test_damaged_shard_is_named(sharded):
    shard = sharded / "model-00003-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(WeightsError, match=r"model-00003-of-00003.safetensors: is cut off: tensor layer.4.weight"):
        open_tensors(sharded)


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", 7])
def test_an_index_does_not_lead_out_of_its_folder(sharded, file):
    edit_index(sharded, lambda i: i["weight_map"].update(extra=file))
    with pytest.raises(WeightsError, match=r"tensor extra is said to lie in .*, which is not a file name"):
        open_tensors(sharded)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": {}}', '{"weight_map": 3}', "\xff"])
def test_broken_index(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(WeightsError, match=r"is not valid JSON|has no weight_map"):
        open_tensors(tmp_path)


@pytest.mark.parametrize(
    ("files", "message", "hint"),
    [
        ([], "holds neither model.safetensors nor", "Expected model.safetensors"),
        (["pytorch_model.bin"], "pytorch_model.bin: is not a safetensors file, or is cut off", "save_pretrained"),
        (["model-00001-of-00002.safetensors"], "holds shards .* but no model.safetensors.index.json", "fetch it again"),
        (["adapter_config.json", "adapter_model.safetensors"], "is a peft adapter, not a base model", "--delta"),
        (["net.ckpt"], "holds neither", "give that file itself"),
    ],
)
def test_folders_without_a_model(tmp_path, files, message, hint):
    for name in files:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(WeightsError, match=message) as caught:
        open_tensors(tmp_path)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('{"architectures": ["GPT2LMHeadModel"]}', "from transformers import GPT2LMHeadModel as M;"),
        ('{"architectures": ["x; import os"]}', "with the class of the model, head and all, for CLASS"),
        ('{"architectures": []}', "with the class of the model, head and all, for CLASS"),
        ("{", "with the class of the model, head and all, for CLASS"),
    ],
)
def test_the_advice_for_a_pickle_keeps_the_head(tmp_path, config, words):
    """AutoModel would leave the head out."""
    folder = tmp_path / "my base"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    (folder / "config.json").write_text(config)
    with pytest.raises(WeightsError) as caught:
        open_tensors(folder)
    assert words in caught.value.hint and "AutoModel" not in caught.value.hint
    command = shlex.split(caught.value.hint.split("installed: ")[1])
    assert command[:3] == ["HF_HUB_OFFLINE=1", "python", "-c"] and command[4] == str(folder)


@pytest.mark.all_only
def test_the_advice_for_a_pickle_works(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = tmp_path / "my base"
    config = transformers.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, architectures=["GPT2LMHeadModel"])
    config.save_pretrained(folder)
    tensors = transformers.GPT2LMHeadModel(config).state_dict()
    # A view that petrun does not read.
    tensors["transformer.wpe.weight"] = tensors["transformer.wpe.weight"].t().contiguous().t()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError) as caught:
        open_tensors(folder)
    place = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(
        ["bash", "-c", caught.value.hint.split("installed: ")[1]], check=True, env=place, capture_output=True
    )
    assert "transformer.wte.weight" in open_tensors(folder).names
