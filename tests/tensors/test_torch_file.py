"""Files that torch wrote (torch_files/make.py), in both layouts, and files that pretend to be some."""

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from petrun.errors import WeightsError
from petrun.tensors import open_tensors

FILES = Path(__file__).with_name("torch_files")


def archive(pickled, **more):
    """An archive as torch.save writes it, of a given data.pkl."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in more.items():
            file.writestr(f"archive/{name}", content)
    return out.getvalue()


@pytest.mark.parametrize("layout", ["new", "old"])
def test_what_torch_wrote(layout):
    reader = open_tensors(FILES / f"{layout}.bin")
    assert reader.kind == "torch"
    assert reader.names == ("single", "tied", "rows", "bfloat16", "number", "parameter", "empty", "flags")
    np.testing.assert_array_equal(reader.read("single"), np.array([[1.5, -2.0, 0.25], [3.0, 4.0, 5.0]], np.float32))
    np.testing.assert_array_equal(reader.read("tied"), reader.read("single"))
    np.testing.assert_array_equal(reader.read("rows"), np.arange(3, 9, dtype=np.float16).reshape(2, 3))
    assert reader.info("bfloat16").dtype == "bfloat16" and reader.read("bfloat16").tolist() == [1.0, -0.5]
    assert reader.read("number") == np.int64(7) and reader.read("number").shape == ()
    assert reader.read("parameter").tolist() == [2.5] and reader.read("empty").shape == (0, 3)
    assert reader.read("flags").tolist() == [True, False]


@pytest.mark.parametrize("layout", ["new", "old"])
def test_folders(tmp_path, layout):
    """One file, and shards with their index; safetensors beside it goes first."""
    shutil.copy(FILES / f"{layout}.bin", tmp_path / "pytorch_model.bin")
    whole = open_tensors(tmp_path)
    assert "rows" in whole
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "pytorch_model-00001-of-00001.bin")
    with pytest.raises(WeightsError, match=r"holds shards .* but no pytorch_model.bin.index.json"):
        open_tensors(tmp_path)
    index = {"weight_map": dict.fromkeys(whole.names, "pytorch_model-00001-of-00001.bin")}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert open_tensors(tmp_path).names == whole.names
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"model.safetensors: is not a safetensors file"):
        open_tensors(tmp_path)


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_nothing_is_executed(tmp_path, old):
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (marker.write_text, ("x",))

    path = tmp_path / "pytorch_model.bin"
    evil = pickle.dumps({"weight": Evil()}, protocol=2)
    head = b"".join(pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    path.write_bytes(head + evil if old else archive(evil))
    with pytest.raises(WeightsError, match=r"is a pickle that asks for .*, and petrun takes nothing but tensors"):
        open_tensors(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive(pickle.dumps([1], protocol=2)), "holds no dictionary of named tensors"),
        (archive(pickle.dumps({"epoch": 3}, protocol=2)), "epoch is int, not a tensor"),
        (archive(b"\x80\x02}q"), "cannot be read as a file of torch.save"),
        (archive(pickle.dumps({}, protocol=2), byteorder=b"big"), "was written on a big-endian machine"),
        (archive(b"")[:40], "cannot be read as a file of torch.save"),
    ],
    # Of the bytes pytest would make a name, which holds the time that they were packed.
    ids=["list", "number", "torn", "big-endian", "cut"],
)
def test_other_contents_are_named(tmp_path, content, message):
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        open_tensors(path)
    assert str(path) in caught.value.message


def test_a_view_out_of_order():
    with pytest.raises(WeightsError, match="tensor turned is a view whose elements are not in order"):
        open_tensors(FILES / "strided.bin")


@pytest.mark.parametrize("layout", ["new", "old"])
def test_every_cut_is_an_error(tmp_path, layout):
    """Of any length: no tensor is read beyond the file's end, nothing else is raised."""
    content = (FILES / f"{layout}.bin").read_bytes()
    path = tmp_path / "model.bin"
    for end in range(1, len(content) - 1, 7):
        path.write_bytes(content[:end])
        with pytest.raises(WeightsError):
            reader = open_tensors(path)
            for name in reader.names:
                reader.read(name)
            # What is cut off may be what no tensor has.
            raise WeightsError("whole")
