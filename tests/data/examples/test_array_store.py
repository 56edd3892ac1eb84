"""Arrays that grow block by block, in memory or in files without a name."""

from contextlib import closing

import numpy as np
import pytest

from petrun.data.examples import array_store
from petrun.data.examples.array_store import ArrayStore, pieces


def filled(folder):
    store = ArrayStore(folder)
    for start in range(0, 1000, 100):
        store.append("ids", np.arange(start, start + 100, dtype=np.int32))
        if start % 200:
            store.append("lengths", np.full(3, start, np.int64))
    store.append("nothing", np.zeros(0, np.float32))
    return store


@pytest.mark.parametrize("held", [0, 700, 10**9])
def test_blocks_become_one_array(tmp_path, monkeypatch, held):
    """With nothing, something and everything held in memory."""
    monkeypatch.setattr(array_store, "_HELD_BYTES", held)
    for folder in (tmp_path / "new", None):
        with closing(filled(folder)) as store:
            assert "ids" in store and "other" not in store
            found = store.finish()
        np.testing.assert_array_equal(found["ids"], np.arange(1000, dtype=np.int32))
        np.testing.assert_array_equal(found["lengths"], np.repeat([100, 300, 500, 700, 900], 3))
        assert [found[name].dtype for name in ("ids", "lengths", "nothing")] == [np.int32, np.int64, np.float32]
        assert len(found["nothing"]) == 0
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir()), "the files have no name"


def test_a_full_disk(tmp_path, monkeypatch):
    """What was not written before the disk was full stays in memory; nothing is lost or twice there."""
    monkeypatch.setattr(array_store, "_HELD_BYTES", 500)
    opened = array_store.tempfile.TemporaryFile

    class Disk:
        left = 1500

        def __init__(self, file):
            self.file = file

        def write(self, content):
            if not Disk.left:
                raise OSError(28, "No space left on device")
            count = min(len(content), Disk.left, 130)
            Disk.left -= count
            return self.file.write(content[:count])

        def __getattr__(self, name):
            return getattr(self.file, name)

    monkeypatch.setattr(array_store.tempfile, "TemporaryFile", lambda **given: Disk(opened(**given)))
    monkeypatch.setattr(
        array_store,
        "map_array",
        lambda file, dtype, offset, shape: np.fromfile(file.file, dtype, shape[0], offset=offset - file.file.tell()),
    )
    with closing(filled(tmp_path)) as store:
        found = store.finish()
    np.testing.assert_array_equal(found["ids"], np.arange(1000))
    np.testing.assert_array_equal(found["lengths"], np.repeat([100, 300, 500, 700, 900], 3))
    assert Disk.left == 0


def test_pieces_cover_an_array(monkeypatch):
    monkeypatch.setattr(array_store, "_PIECE_BYTES", 64)
    for array in (np.arange(100), np.arange(60).reshape(30, 2), np.zeros((3, 100)), np.zeros(0)):
        parts = list(pieces(array))
        assert len(parts) > 1 or len(array) < 2
        np.testing.assert_array_equal(np.concatenate(parts) if parts else np.zeros(0), array)
