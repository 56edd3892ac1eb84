"""Bases, deltas and adapters of the toy family, as files."""

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import save_file

from petrun.checkpoint.delta import BaseIdentity, Manifest, read_delta, save_delta
from tests.checkpoint.toy_family import NAMES, shape_of, stored_form


@pytest.fixture
def names():
    return dict(NAMES)


@pytest.fixture
def base_arrays():
    """Parameters of the base in the net's names and layout; it has no head."""
    rng = np.random.default_rng(7)
    kept = [n for n in NAMES if not n.startswith("classifier")]
    return {n: rng.standard_normal(shape_of(n)).astype(np.float32) for n in kept}


@pytest.fixture
def base_folder(tmp_path, base_arrays):
    """A Hugging Face folder of the base, with a tokenizer's file."""
    folder = tmp_path / "base"
    folder.mkdir()
    save_file(stored_form(base_arrays), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    (folder / "vocab.txt").write_text("[PAD]\nа\n")
    return folder


@pytest.fixture
def make_delta(tmp_path):
    """make_delta(arrays, algo="lora", **config) -> the Delta as read from a file of these arrays."""

    def make(arrays, algo="lora", name="delta.ckpt", **config):
        settings = {"rank": 2, "alpha": 4.0, "variant": "lora", **config} if algo == "lora" else config
        save_delta(tmp_path / name, arrays, Manifest(algo=algo, config=settings, base=BaseIdentity(digest="d")))
        return read_delta(tmp_path / name)

    return make


@pytest.fixture
def write_adapter(tmp_path):
    """write_adapter(tensors, **config) -> a peft adapter folder."""

    def write(tensors, folder="adapter", **config):
        path = tmp_path / folder
        path.mkdir()
        settings = {
            "peft_type": "LORA",
            "r": 2,
            "lora_alpha": 4,
            "lora_dropout": 0.1,
            "target_modules": ["query", "c_fc"],
            "bias": "none",
            "use_rslora": False,
            "init_lora_weights": True,
            "peft_version": "0.21.2",
            **config,
        }
        (path / "adapter_config.json").write_text(json.dumps(settings))
        save_file(tensors, path / "adapter_model.safetensors", {"format": "pt"})
        return path

    return write


@pytest.fixture
def write(tmp_path):
    """write(arrays) -> what is read of a MindSpore checkpoint of them."""

    def save(arrays):
        path = tmp_path / "DELTA_CKP-3_12.ckpt"
        ms.save_checkpoint([{"name": n, "data": Tensor(a)} for n, a in arrays.items()], str(path))
        return read_delta(path)

    return save
