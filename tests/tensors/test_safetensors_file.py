"""safetensors: what others write is read, and every way a file can be wrong has its message."""

import json
import os

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from petrun.errors import WeightsError
from petrun.tensors import TensorEntry, array_entries, open_tensors, write_safetensors


def raw_file(path, header, body=b"", length=None):
    """A safetensors file from its parts, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


ARRAYS = {
    "f64": np.array([[1.5, -2.0]], np.float64),
    "f32": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "f16": np.array([65504, 6e-8], np.float16),
    "i64": np.array([-(2**62), 2**62]),
    "i32": np.array([[1], [2]], np.int32),
    "i16": np.array([-3], np.int16),
    "i8": np.array([-4, 5], np.int8),
    "u8": np.array([255], np.uint8),
    "u32": np.array([2**32 - 1], np.uint32),
    "bool": np.array([True, False, True]),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
}


def same(got, want):
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_array_equal(got, want)


def test_reads_what_the_library_writes(tmp_path):
    save_file(ARRAYS, tmp_path / "a.safetensors", {"who": "library"})
    reader = open_tensors(tmp_path / "a.safetensors")
    assert set(reader.names) == set(ARRAYS) and reader.metadata == {"who": "library"}
    for name, want in ARRAYS.items():
        same(reader.read(name), want)
        assert reader.read_raw(name) == want.tobytes()
        assert b"".join(reader.raw_chunks(name, 3)) == want.tobytes()


def test_the_library_reads_what_is_written(tmp_path):
    path = tmp_path / "a.safetensors"
    digests = write_safetensors(path, array_entries(ARRAYS), {"ключ": "значение"})
    assert set(digests) == set(ARRAYS)
    with safe_open(path, "np") as file:
        assert file.metadata() == {"ключ": "значение"}
        for name, want in ARRAYS.items():
            same(file.get_tensor(name), want)


def test_tensors_start_at_multiples_of_their_element(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, array_entries({"one": np.ones(3, np.int8), "two": np.ones(3, np.float64)}))
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    assert length % 8 == 0 and header["two"]["data_offsets"] == [0, 24] and header["one"]["data_offsets"] == [24, 27]


def test_bfloat16_is_read_as_float32_and_kept_raw(tmp_path):
    path = raw_file(tmp_path / "b.safetensors", {"w": entry("BF16", (2, 2), (0, 8))}, bytes.fromhex("803f20c049400000"))
    reader = open_tensors(path)
    assert reader.info("w").dtype == "bfloat16" and reader.info("w").nbytes == 8
    same(reader.read("w"), np.array([[1, -2.5], [3.140625, 0]], np.float32))
    written = tmp_path / "again.safetensors"
    write_safetensors(written, [TensorEntry("w", (2, 2), "bfloat16", lambda: reader.read("w"))])
    assert open_tensors(written).read_raw("w") == reader.read_raw("w")


def test_float8_is_named_when_read_and_passed_through_raw(tmp_path):
    path = raw_file(tmp_path / "q.safetensors", {"w": entry("F8_E4M3", (3,), (0, 3))}, b"abc")
    reader = open_tensors(path)
    with pytest.raises(WeightsError, match=r"tensor w is float8_e4m3, which cannot be read") as caught:
        reader.read("w")
    assert "bfloat16 copy" in caught.value.hint
    assert reader.read_raw("w") == b"abc"


def test_null_metadata_is_none(tmp_path):
    path = raw_file(tmp_path / "m.safetensors", {"__metadata__": None, "w": entry()}, bytes(8))
    assert open_tensors(path).metadata == {}


def test_unknown_name_has_near_misses(tmp_path):
    path = raw_file(tmp_path / "n.safetensors", {"layer.weight": entry()}, bytes(8))
    with pytest.raises(WeightsError, match=r"holds no tensor layer\.weigth") as caught:
        open_tensors(path).read("layer.weigth")
    assert "Did you mean layer.weight?" in caught.value.hint


WRONG = {
    "header beyond the file": (
        dict(header={"w": entry()}, length=1 << 20),
        "is cut off: its header alone needs 1048584",
    ),
    "header over the limit": (dict(header={"w": entry()}, length=200_000_000), "claims a header of 200000000 bytes"),
    "cut in the data": (
        dict(header={"w": entry()}, body=bytes(5)),
        r"is cut off: tensor w ends at byte \d+, the file has",
    ),
    "bytes left over": (dict(header={"w": entry()}, body=bytes(11)), "has 3 bytes after the last tensor"),
    "not JSON": (dict(header=b"{not json}"), "its header is not valid JSON"),
    "not UTF-8": (dict(header=b'{"\xff": 1}'), "its header is not valid JSON"),
    "nested too deep": (dict(header=b'{"a":' * 100_000), "its header is not valid JSON"),
    "named twice": (dict(header=b'{"w": {}, "w": {}}'), "its header names w twice"),
    "no dtype": (dict(header={"w": {"shape": [2]}}), "tensor w lacks dtype, shape or data_offsets"),
    "unknown dtype": (dict(header={"w": entry("F31")}, body=bytes(8)), "tensor w has the unknown element type 'F31'"),
    "negative size": (
        dict(header={"w": entry(shape=(-2,))}, body=bytes(8)),
        r"tensor w has the impossible shape \[-2\]",
    ),
    "size not whole": (dict(header={"w": entry(shape=(True, 2))}, body=bytes(8)), "has the impossible shape"),
    "too many axes": (dict(header={"w": entry(shape=(1,) * 40)}, body=bytes(8)), "has the impossible shape"),
    "offsets reversed": (dict(header={"w": entry(offsets=(8, 0))}, body=bytes(8)), "has the impossible data_offsets"),
    "size against offsets": (
        dict(header={"w": entry(shape=(2**40, 2**40))}, body=bytes(8)),
        r"tensor w \(float32 .*\) needs \d+ bytes and has 8",
    ),
    "overlap": (
        dict(header={"a": entry(), "b": entry(offsets=(4, 12))}, body=bytes(12)),
        "tensors a and b overlap",
    ),
    "gap": (
        dict(header={"a": entry(), "b": entry(offsets=(12, 20))}, body=bytes(20)),
        "4 bytes before tensor b belong to no tensor",
    ),
    "metadata of numbers": (dict(header={"__metadata__": {"a": 1}}), "__metadata__ is not a map of strings"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused(tmp_path, case):
    parts, message = WRONG[case]
    path = raw_file(tmp_path / "wrong.safetensors", **parts)
    with pytest.raises(WeightsError, match=message) as caught:
        open_tensors(path)
    assert str(path) in caught.value.message and caught.value.hint


def test_every_truncation_is_refused(tmp_path):
    whole = tmp_path / "whole.safetensors"
    save_file({"a": np.ones((2, 2), np.float32), "b": np.ones(3, np.int64)}, whole)
    content = whole.read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(WeightsError):
            open_tensors(path)


def test_a_file_cut_after_it_was_opened(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"w": np.ones(100, np.float32)}, path)
    reader = open_tensors(path)
    os.truncate(path, 200)
    with pytest.raises(WeightsError, match=r"ends inside tensor w, \d+ bytes short"):
        reader.read("w")
    path.unlink()
    with pytest.raises(WeightsError, match="no such file or folder"):
        reader.read("w")
