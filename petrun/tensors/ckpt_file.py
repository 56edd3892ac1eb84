"""Read MindSpore's .ckpt, a protobuf message, by walking its wire format, so that no tensor is loaded before it is read.

    message Checkpoint  { repeated Value value = 1; }
    message Value       { string tag = 1; TensorProto tensor = 2; MapTensorProto maptensor = 3; }
    message TensorProto { repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3; }

Source: mindspore/train/checkpoint.proto and serialization.py (2.10). These also hold:
- A tensor over 512 MB is stored as several neighbouring Values with one tag, each with the full tensor's
  dims.
- A string of `append_dict` has tensor_type "str"; its content is UTF-32 (numpy's U type), 4 bytes a
  character.
- dims [0] with content is a scalar (older writers).
- A file may end in "crc_num" and the CRC-32 of all bytes before it, 10 bytes big-endian.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from petrun.errors import WeightsError
from petrun.tensors.dtypes import BY_CKPT, BY_NAME
from petrun.tensors.table import Extent, Stored, Table, TensorInfo, unreadable

CRC_MARK = b"crc_num"
CRC_BYTES = len(CRC_MARK) + 10
_MAX_TAG_BYTES = 1 << 16
_MAX_RANK = 32
_MAX_STRING_BYTES = 256 << 20
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_AGAIN = "The file is damaged or cut off: fetch or write it again."


@dataclass(kw_only=True)
class _Value:
    """One Value message: a tensor, or a part of one."""

    tag: str = ""
    dims: list[int] = field(default_factory=list)
    tensor_type: str = ""
    offset: int = 0
    length: int = 0
    is_map: bool = False


class _Walker:
    """Reads protobuf fields of one open file, never past `end`."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file = file
        self.path = path

    def broken(self, offset: int, what: str) -> WeightsError:
        return WeightsError(f"{self.path}: is not a whole MindSpore checkpoint: {what} at byte {offset}", hint=_AGAIN)

    def varint(self, end: int) -> int:
        start = self.file.tell()
        value = 0
        for shift in range(0, 70, 7):
            byte = self.file.read(1) if start + shift // 7 < end else b""
            if not byte:
                raise self.broken(start, "it ends inside a number")
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value
        raise self.broken(start, "a number is too long")

    def field(self, end: int) -> tuple[int, int, int]:
        """Return the next field's (number, wire type, payload); the payload is a length for bytes and the value for a varint."""
        start = self.file.tell()
        key = self.varint(end)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            return number, wire, self.varint(end)
        if wire not in (_BYTES, _FIXED32, _FIXED64) or number == 0:
            raise self.broken(start, "an unknown field")
        payload = self.varint(end) if wire == _BYTES else (4 if wire == _FIXED32 else 8)
        if payload > end - self.file.tell():
            raise self.broken(
                start,
                f"a field of {payload} bytes runs {payload - (end - self.file.tell())} bytes past its end",
            )
        return number, wire, payload

    def text(self, length: int, what: str) -> str:
        start = self.file.tell()
        if length > _MAX_TAG_BYTES:
            raise self.broken(start, f"{what} of {length} bytes")
        try:
            return self.file.read(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.broken(start, f"{what} that is not UTF-8") from error

    def skip(self, length: int) -> None:
        self.file.seek(length, os.SEEK_CUR)


def scan_ckpt(path: Path) -> Table:
    """Find every tensor and every string of a checkpoint. Raises WeightsError naming the file, the fault and its offset."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            end = _checked_end(path, file, size)
            file.seek(0)
            values = _values(_Walker(file, path), end)
            return _join(path, file, values)
    except OSError as error:
        raise unreadable(path, error) from error


def _checked_end(path: Path, file: BinaryIO, size: int) -> int:
    """Return where the messages end, and compare the checksum after them."""
    if size < CRC_BYTES:
        return size
    file.seek(size - CRC_BYTES)
    tail = file.read(CRC_BYTES)
    if not tail.startswith(CRC_MARK):
        return size
    file.seek(0)
    left, crc = size - CRC_BYTES, 0
    while left:
        chunk = file.read(min(left, 8 << 20))
        if not chunk:
            raise WeightsError(f"{path}: was cut off while it was being read", hint=_AGAIN)
        crc = zlib.crc32(chunk, crc)
        left -= len(chunk)
    if crc != int.from_bytes(tail[len(CRC_MARK) :], "big"):
        raise WeightsError(f"{path}: its content does not match its checksum", hint=_AGAIN)
    return size - CRC_BYTES


def _values(walker: _Walker, end: int) -> list[_Value]:
    values = []
    while (start := walker.file.tell()) < end:
        number, wire, payload = walker.field(end)
        if number != 1 or wire != _BYTES:
            # A checkpoint has no other field: skipping it would read a foreign file as an empty checkpoint.
            raise walker.broken(start, "an unknown field")
        values.append(_value(walker, walker.file.tell() + payload))
    if not values:
        raise walker.broken(0, "it holds no tensor")
    return values


def _value(walker: _Walker, end: int) -> _Value:
    value, start = _Value(), walker.file.tell()
    while walker.file.tell() < end:
        number, wire, payload = walker.field(end)
        if (number, wire) == (1, _BYTES):
            value.tag = walker.text(payload, "a tensor's name")
        elif (number, wire) == (2, _BYTES):
            _tensor(walker, value, walker.file.tell() + payload)
        else:
            value.is_map |= number == 3
            walker.skip(payload if wire != _VARINT else 0)
    if not value.tag:
        raise walker.broken(start, "a tensor without a name")
    return value


def _tensor(walker: _Walker, value: _Value, end: int) -> None:
    while walker.file.tell() < end:
        number, wire, payload = walker.field(end)
        if (number, wire) == (1, _VARINT):
            value.dims.append(payload)
        elif (number, wire) == (1, _BYTES):
            packed_end = walker.file.tell() + payload
            while walker.file.tell() < packed_end and len(value.dims) <= _MAX_RANK:
                value.dims.append(walker.varint(packed_end))
        elif (number, wire) == (2, _BYTES):
            value.tensor_type = walker.text(payload, "an element type")
        elif (number, wire) == (3, _BYTES):
            value.offset, value.length = walker.file.tell(), payload
            walker.skip(payload)
        else:
            walker.skip(payload if wire != _VARINT else 0)
        if len(value.dims) > _MAX_RANK:
            raise walker.broken(walker.file.tell(), f"tensor {value.tag} has more than {_MAX_RANK} dimensions")


def _join(path: Path, file: BinaryIO, values: list[_Value]) -> Table:
    """Join neighbouring Values of one tag, which are parts of one tensor."""
    groups: list[list[_Value]] = []
    for value in values:
        if groups and groups[-1][0].tag == value.tag:
            groups[-1].append(value)
        else:
            groups.append([value])
    tensors: dict[str, Stored] = {}
    metadata: dict[str, str] = {}
    for parts in groups:
        tag = parts[0].tag
        if tag in tensors or tag in metadata:
            raise WeightsError(f"{path}: holds {tag} twice", hint=_AGAIN)
        if parts[0].is_map:
            raise WeightsError(f"{path}: {tag} is a MapParameter (hash table), which is not supported")
        if parts[0].tensor_type == "str":
            metadata[tag] = _string(path, file, parts)
        else:
            tensors[tag] = _stored(path, parts)
    return Table(tensors, metadata)


def _string(path: Path, file: BinaryIO, parts: list[_Value]) -> str:
    length = sum(part.length for part in parts)
    if length % 4 or length > _MAX_STRING_BYTES:
        raise WeightsError(f"{path}: string {parts[0].tag} has the impossible length of {length} bytes", hint=_AGAIN)
    content = b""
    for part in parts:
        file.seek(part.offset)
        content += file.read(part.length)
    try:
        return content.decode("utf-32-le").rstrip("\0")
    except UnicodeDecodeError as error:
        raise WeightsError(f"{path}: string {parts[0].tag} is not UTF-32 text", hint=_AGAIN) from error


def _stored(path: Path, parts: list[_Value]) -> Stored:
    first = parts[0]
    if any((part.dims, part.tensor_type) != (first.dims, first.tensor_type) for part in parts):
        raise WeightsError(f"{path}: the parts of tensor {first.tag} disagree on its shape or type", hint=_AGAIN)
    if first.tensor_type not in BY_CKPT:
        raise WeightsError(
            f"{path}: tensor {first.tag} has the unknown element type {first.tensor_type!r}",
            hint=f"Known: {', '.join(BY_CKPT)}.",
        )
    dtype = BY_CKPT[first.tensor_type].name
    length = sum(part.length for part in parts)
    dims = [] if first.dims == [0] and length * 8 == BY_NAME[dtype].bits else first.dims
    if any(size >= 1 << 63 for size in dims):
        raise WeightsError(f"{path}: tensor {first.tag} has a negative dimension", hint=_AGAIN)
    info = TensorInfo(tuple(dims), dtype)
    if info.nbytes != length:
        raise WeightsError(
            f"{path}: tensor {first.tag} ({dtype} {list(dims)}) needs {info.nbytes} bytes and has {length}",
            hint=_AGAIN,
        )
    return Stored(
        info, tuple(Extent(path=path, offset=part.offset, length=part.length) for part in parts if part.length)
    )
