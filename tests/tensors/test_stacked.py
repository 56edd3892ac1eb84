"""Stacks of matrices that a file holds each by itself, or joined with others."""

import numpy as np
import pytest

from petrun.errors import WeightsError
from petrun.tensors import array_entries, open_tensors, write_safetensors
from petrun.tensors.stacked import Stack, StackedReader, matrix_chunks, read_matrix

RNG = np.random.default_rng(0)
PARTS = {f"e.{i}.w": RNG.standard_normal((3, 2)).astype(np.float32) for i in range(4)}
JOINED = RNG.standard_normal((4, 6, 2)).astype(np.float32)


@pytest.fixture
def reader(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, array_entries({"old": JOINED[0], **PARTS, "joined": JOINED}), {"format": "pt"})
    stacks = {
        "e.*.w": Stack(parts=tuple(PARTS)), "upper": Stack(joined="joined", end=4), "lower": Stack(joined="joined", begin=4),
    }  # fmt: skip
    return StackedReader(open_tensors(path), stacks, {"old": "new"})


EXPECTED = {"new": JOINED[0], "e.*.w": np.stack(list(PARTS.values())), "upper": JOINED[:, :4], "lower": JOINED[:, 4:]}


def test_every_name_stands_for_one_tensor(reader):
    assert set(reader.names) == set(EXPECTED) and len(reader) == 4
    assert "new" in reader and "old" not in reader and "e.0.w" not in reader and "joined" not in reader
    for name, values in EXPECTED.items():
        assert reader.info(name).shape == values.shape and reader.info(name).dtype == "float32"
        np.testing.assert_array_equal(reader.read(name), values)
        np.testing.assert_array_equal(reader.read_stored(name), values)
        assert b"".join(reader.raw_chunks(name, 40)) == values.tobytes()


def test_one_matrix_of_a_stack(reader):
    for name in ("e.*.w", "upper", "lower"):
        for i in range(4):
            np.testing.assert_array_equal(read_matrix(reader, name, i), EXPECTED[name][i])
            assert b"".join(matrix_chunks(reader, name, i)) == EXPECTED[name][i].tobytes()
    np.testing.assert_array_equal(read_matrix(reader, "new", None), JOINED[0])
    assert b"".join(matrix_chunks(reader, "new", None)) == JOINED[0].tobytes()


def test_bfloat16_is_read_as_values(tmp_path):
    path = tmp_path / "model.safetensors"
    from petrun.tensors import TensorEntry

    write_safetensors(path, [TensorEntry("joined", JOINED.shape, "bfloat16", lambda: JOINED)], {"format": "pt"})
    stacked = StackedReader(open_tensors(path), {"upper": Stack(joined="joined", end=4)}, {})
    np.testing.assert_array_equal(stacked.read("upper"), open_tensors(path).read("joined")[:, :4])
    assert stacked.read_stored("upper").dtype == np.uint16


def test_parts_of_several_shapes_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, array_entries({"a": JOINED[0], "b": JOINED[1, :2]}), {"format": "pt"})
    with pytest.raises(WeightsError, match=r"b is \[2, 2\] float32, a is \[6, 2\] float32"):
        StackedReader(open_tensors(path), {"s": Stack(parts=("a", "b"))}, {})
