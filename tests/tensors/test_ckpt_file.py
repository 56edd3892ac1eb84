"""MindSpore checkpoints: both directions with MindSpore itself, split tensors, checksums, strings, and damaged files."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.train import serialization

from petrun.errors import OutputError, WeightsError
from petrun.tensors import TensorEntry, array_entries, open_tensors, write_ckpt
from petrun.tensors.ckpt_file import CRC_BYTES

ARRAYS = {
    "layer.weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "half": np.array([65504, 6e-8], np.float16),
    "double": np.array([[1.5]], np.float64),
    "long": np.array([-(2**62), 2**62]),
    "int": np.array([[1], [2]], np.int32),
    "short": np.array([-3], np.int16),
    "byte": np.array([-4, 5], np.int8),
    "ubyte": np.array([255], np.uint8),
    "bool": np.array([True, False, True]),
    "scalar": np.array(2.5, np.float32),
}
TEXTS = {"petrun_manifest": '{"algo": "lora", "имя": "模型 🙂"}', "empty": ""}


def saved(path, arrays, **options):
    ms.save_checkpoint([{"name": n, "data": Tensor(a)} for n, a in arrays.items()], str(path), **options)
    return path


def same(got, want):
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_array_equal(got, want)


@pytest.fixture
def small_slices(monkeypatch):
    """MindSpore splits tensors over 1 KB instead of 512 MB."""
    monkeypatch.setattr(serialization, "SLICE_SIZE", 1)


def test_reads_what_mindspore_writes(tmp_path):
    path = saved(tmp_path / "a.ckpt", ARRAYS, append_dict={**TEXTS, "epoch_num": 3, "lr": 0.5, "done": True})
    reader = open_tensors(path)
    assert reader.kind == "ckpt" and reader.metadata == TEXTS
    assert reader.names == (*ARRAYS, "epoch_num", "lr", "done")
    for name, want in ARRAYS.items():
        same(reader.read(name), want)
    assert reader.read("epoch_num") == 3 and reader.info("epoch_num").shape == ()
    assert reader.read("lr") == np.float32(0.5) and reader.info("done").dtype == "bool"


def test_mindspore_reads_what_is_written(tmp_path):
    write_ckpt(tmp_path / "a.ckpt", array_entries(ARRAYS), TEXTS)
    loaded = ms.load_checkpoint(str(tmp_path / "a.ckpt"))
    assert list(loaded) == [*ARRAYS, *TEXTS]
    assert {k: loaded[k] for k in TEXTS} == TEXTS
    for name, want in ARRAYS.items():
        same(loaded[name].asnumpy(), want)


def test_the_two_writers_agree_byte_for_byte(tmp_path):
    saved(tmp_path / "theirs.ckpt", ARRAYS, append_dict=dict(TEXTS))
    write_ckpt(tmp_path / "ours.ckpt", array_entries(ARRAYS), TEXTS)
    assert (tmp_path / "ours.ckpt").read_bytes() == (tmp_path / "theirs.ckpt").read_bytes()


def test_a_written_file_loads_into_a_net(tmp_path):
    net = nn.Dense(4, 3)
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_ckpt(tmp_path / "a.ckpt", array_entries({"weight": weight, "bias": np.ones(3, np.float32)}), TEXTS)
    missing, unused = ms.load_param_into_net(net, ms.load_checkpoint(str(tmp_path / "a.ckpt")), strict_load=True)
    assert missing == [] and sorted(unused) == sorted(TEXTS)
    same(net.weight.asnumpy(), weight)


def test_bfloat16_both_ways(tmp_path):
    values = np.array([1, -2.5, 3.140625, 1e30], np.float32)
    ms.save_checkpoint([{"name": "w", "data": Tensor(values).astype(ms.bfloat16)}], str(tmp_path / "a.ckpt"))
    reader = open_tensors(tmp_path / "a.ckpt")
    assert reader.info("w").dtype == "bfloat16" and reader.read_raw("w")[:2] == b"\x80\x3f"
    write_ckpt(tmp_path / "b.ckpt", [TensorEntry("w", (4,), "bfloat16", lambda: values)])
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "b.ckpt").read_bytes()
    loaded = ms.load_checkpoint(str(tmp_path / "b.ckpt"))["w"]
    assert loaded.dtype == ms.bfloat16
    same(loaded.astype(ms.float32).asnumpy(), reader.read("w"))


@pytest.mark.parametrize("options", [{}, {"crc_check": True}])
def test_reads_tensors_that_mindspore_splits(tmp_path, small_slices, options):
    arrays = {"a": np.arange(1500, dtype=np.float32).reshape(500, 3), "b": np.ones(2, np.float32)}
    path = saved(tmp_path / "a.ckpt", arrays, **options)
    assert path.read_bytes().count(b"\x0a\x01a") > 4
    reader = open_tensors(path)
    for name, want in arrays.items():
        same(reader.read(name), want)
        assert b"".join(reader.raw_chunks(name, 100)) == want.tobytes()


def test_mindspore_reads_tensors_split_here(tmp_path):
    arrays = {"a": np.arange(1500, dtype=np.float32).reshape(500, 3), "b": np.ones(2, np.float32)}
    write_ckpt(tmp_path / "a.ckpt", array_entries(arrays), part_bytes=1000)
    assert (tmp_path / "a.ckpt").read_bytes().count(b"\x0a\x01a") == 6
    loaded = ms.load_checkpoint(str(tmp_path / "a.ckpt"))
    for name, want in arrays.items():
        same(loaded[name].asnumpy(), want)
        same(open_tensors(tmp_path / "a.ckpt").read(name), want)


def test_checksum(tmp_path):
    path = saved(tmp_path / "a.ckpt", ARRAYS, crc_check=True)
    content = path.read_bytes()
    assert content[-CRC_BYTES:].startswith(b"crc_num")
    same(open_tensors(path).read("layer.weight"), ARRAYS["layer.weight"])
    at = content.index(ARRAYS["layer.weight"].tobytes()) + 5
    path.chmod(0o600)
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(WeightsError, match="its content does not match its checksum"):
        open_tensors(path)


def test_every_truncation_is_refused_or_ends_between_tensors(tmp_path):
    arrays = {"a": np.ones((2, 2), np.float32), "b": np.ones(3, np.int64)}
    whole = tmp_path / "whole.ckpt"
    write_ckpt(whole, array_entries(arrays), {"note": "x"})
    content = whole.read_bytes()
    path = tmp_path / "cut.ckpt"
    read = []
    for length in range(len(content)):
        path.write_bytes(content[:length])
        try:
            read.append(open_tensors(path).names)
        except WeightsError as error:
            assert str(path) in error.message and error.hint
    # A file cut exactly between two Values is a shorter checkpoint; who asks for the rest is told what is missing.
    assert read == [("a",), ("a", "b")]


def test_encrypted_file(tmp_path):
    path = saved(tmp_path / "a.ckpt", {"w": np.ones(2, np.float32)}, enc_key=b"0123456789abcdef", enc_mode="AES-GCM")
    with pytest.raises(WeightsError, match="is a MindSpore checkpoint encrypted with AES-GCM") as caught:
        open_tensors(path)
    assert "dec_key" in caught.value.hint


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def value(tag, dims, kind, content, *, packed=False):
    sizes = field(1, b"".join(map(varint, dims))) if packed else b"".join(b"\x08" + varint(d) for d in dims)
    tensor = sizes + field(2, kind.encode()) + field(3, content)
    return field(1, field(1, tag.encode()) + field(2, tensor))


EIGHT = bytes(8)
WRONG = {
    "unknown type": (value("w", [2], "Float31", EIGHT), "tensor w has the unknown element type 'Float31'"),
    "size": (value("w", [3], "Float32", EIGHT), r"tensor w \(float32 \[3\]\) needs 12 bytes and has 8"),
    "huge": (value("w", [2**40, 2**40], "Float32", EIGHT), r"tensor w .* needs \d+ bytes and has 8"),
    "negative": (value("w", [2**64 - 1], "Float32", EIGHT), "tensor w has a negative dimension"),
    "axes": (value("w", [1] * 40, "Float32", EIGHT), "tensor w has more than 32 dimensions"),
    "packed axes": (value("w", [1] * 4000, "Float32", EIGHT, packed=True), "tensor w has more than 32 dimensions"),
    "twice": (
        value("w", [2], "Float32", EIGHT) + value("v", [2], "Float32", EIGHT) + value("w", [2], "Float32", EIGHT),
        "holds w twice",
    ),
    "parts": (
        value("w", [4], "Float32", EIGHT) + value("w", [2, 2], "Float32", EIGHT),
        "the parts of tensor w disagree on its shape or type",
    ),
    "string length": (value("w", [0], "str", b"abcde"), "string w has the impossible length of 5 bytes"),
    "string": (value("w", [0], "str", b"\xff\xff\xff\xff"), "string w is not UTF-32 text"),
    "no name": (value("w", [2], "Float32", EIGHT) + field(1, field(2, b"")), "a tensor without a name"),
    "name": (field(1, field(1, b"\xff\xfe")), "a tensor's name that is not UTF-8"),
    "long name": (field(1, field(1, b"n" * 70_000)), "a tensor's name of 70000 bytes"),
    "map": (field(1, field(1, b"table") + field(3, b"")), "table is a MapParameter"),
    "foreign field": (value("w", [2], "Float32", EIGHT) + field(2, b"x"), "an unknown field at byte"),
    "group": (value("w", [2], "Float32", EIGHT) + b"\x0b", "an unknown field at byte"),
    "number": (value("w", [2], "Float32", EIGHT) + b"\x0a" + b"\xff" * 11, "a number is too long at byte"),
    "past its end": (value("w", [2], "Float32", EIGHT) + b"\x0a\x7f\x0a\x01v", "runs 124 bytes past its end"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused(tmp_path, case):
    content, message = WRONG[case]
    path = tmp_path / "wrong.ckpt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        open_tensors(path)
    assert str(path) in caught.value.message


def test_other_writers_forms(tmp_path):
    """Packed dims, the scalar of older MindSpore (dims [0]), several Values in one Checkpoint, unknown fields in a tensor."""
    path = tmp_path / "a.ckpt"
    one = np.float32(3.5).tobytes()
    odd = field(
        1,
        field(1, b"odd") + field(2, b"\x08\x01" + field(2, b"Float32") + field(3, one) + b"\x78\x05" + field(9, b"z")),
    )
    path.write_bytes(
        value("packed", [2, 1], "Float32", EIGHT, packed=True) + value("scalar", [0], "Float32", one) + odd
    )
    reader = open_tensors(path)
    assert reader.info("packed").shape == (2, 1)
    assert reader.info("scalar").shape == () and reader.read("scalar") == np.float32(3.5)
    assert reader.read("odd").tolist() == [3.5]


def test_types_that_a_checkpoint_lacks(tmp_path):
    with pytest.raises(OutputError, match=r"a .ckpt cannot hold float4 \(tensor w\)"):
        write_ckpt(tmp_path / "a.ckpt", [TensorEntry("w", (2,), "float4", lambda: b"x")])
    assert list(tmp_path.iterdir()) == []
