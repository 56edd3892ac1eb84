"""Files of other kinds: each is named, with the way out."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from petrun.errors import WeightsError
from petrun.tensors import array_entries, open_tensors, write_ckpt


def zipped():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    return out.getvalue()


FOREIGN = {
    "empty": (b"", "is empty", "again"),
    "web page": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "is a web page", "Fetch the file itself"),
    "html": (b"  <HTML>", "is a web page", "Fetch the file itself"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "is a Git LFS pointer",
        "git lfs pull",
    ),
    "torch": (zipped(), "cannot be read as a file of torch.save", "fetch it again"),
    "old torch": (pickle.dumps({"a": 1}, protocol=2), "a Python pickle", "safetensors.torch"),
    "pickle": (pickle.dumps({"a": 1}), "a Python pickle, not one of torch.save", "safetensors.torch"),
    "gguf": (b"GGUF\x03\0\0\0", "is a GGUF file", "safetensors"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file", "safetensors"),
    "npy": (b"\x93NUMPY\x01\0", "is a numpy array file", "safetensors.numpy"),
    "gzip": (b"\x1f\x8b\x08\0", "is a gzip archive", "Unpack"),
    "json": (b'{"model_type": "bert"}', "is JSON text", "tensors"),
    "gcm": (b"\xd8^:\x7f\xee'", "encrypted with AES-GCM", "dec_key"),
    "cbc": (b"\xd9^:\x7fH", "encrypted with AES-CBC", "dec_key"),
    "sm4": (b"\xda^:\x7fH", "encrypted with SM4-CBC", "dec_key"),
    "text": (
        b"hello, this is a letter to a friend",
        "is neither safetensors nor a MindSpore checkpoint",
        ".safetensors",
    ),
    "noise": (bytes(range(100, 200)), "is neither safetensors nor", ".ckpt"),
}


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize("suffix", [".bin", ".ckpt"])
def test_foreign_files_are_named(tmp_path, case, suffix):
    content, message, hint = FOREIGN[case]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        open_tensors(path)
    assert hint in caught.value.hint and str(path) in caught.value.message


def test_a_pickle_is_not_executed(tmp_path):
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (marker.write_text, ("x",))

    path = tmp_path / "model.ckpt"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match="pickle"):
        open_tensors(path)
    assert not marker.exists()


@pytest.mark.parametrize("length", [0x0480, 0x0280, 0x8B1F, 0x0A0A, 0x3A5ED8])
def test_a_header_whose_length_looks_like_another_kind(tmp_path, length):
    header = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(length)
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header + bytes(8))
    assert open_tensors(path).names == ("w",)


def test_the_content_decides_not_the_name(tmp_path):
    write_ckpt(tmp_path / "a.safetensors", array_entries({"w": np.ones(2, np.float32)}))
    save_file({"w": np.ones(2, np.float32)}, tmp_path / "b.ckpt")
    assert open_tensors(tmp_path / "a.safetensors").kind == "ckpt"
    assert open_tensors(tmp_path / "b.ckpt").kind == "safetensors"


def test_no_such_file(tmp_path):
    with pytest.raises(WeightsError, match="no such file or folder"):
        open_tensors(tmp_path / "none.ckpt")
    (tmp_path / "plain").write_text("x")
    with pytest.raises(WeightsError, match="cannot be read: Not a directory"):
        open_tensors(tmp_path / "plain" / "model.safetensors")
