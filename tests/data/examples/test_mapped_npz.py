"""Archives of arrays that are mapped into memory."""

import mmap
import zipfile

import numpy as np
import pytest

from petrun.data.examples.mapped_npz import map_npz, write_npz

ARRAYS = {
    "meta": np.frombuffer(b"{}", np.uint8),
    "flat/input_ids": np.arange(1000, dtype=np.int32),
    "a name with ☃": np.arange(7, dtype=np.int64),
    "empty": np.zeros(0, np.float32),
    "two axes": np.arange(12, dtype=np.float32).reshape(3, 4),
}


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        write_npz(file, ARRAYS)
    return path


def test_arrays_are_mapped_at_aligned_addresses(archive):
    found = map_npz(archive)
    assert list(found) == list(ARRAYS)
    archive.unlink()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert (found[name].dtype == array.dtype and found[name].ctypes.data % 64 == 0) or not array.size
        if array.size:
            assert isinstance(found[name].base.base, mmap.mmap) and not found[name].flags.writeable


def test_numpy_reads_the_same(archive):
    with np.load(archive) as stored:
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(stored[name], array)


def test_every_changed_byte_of_an_array_is_found(archive):
    raw = archive.read_bytes()
    for at in range(raw.index(b"NUMPY") - 1, raw.index(b"PK\1\2"), 97):
        archive.write_bytes(raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :])
        try:
            found = map_npz(archive)
        except (zipfile.BadZipFile, ValueError, EOFError, UnicodeDecodeError):
            continue
        # Between the arrays is padding, which nobody reads.
        assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items())


def test_compressed_arrays_are_not_mapped(tmp_path):
    np.savez_compressed(tmp_path / "b.npz", a=np.zeros(100))
    with pytest.raises(ValueError, match="compressed"):
        map_npz(tmp_path / "b.npz")
