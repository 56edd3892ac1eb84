"""Read the safetensors format: 8 bytes of header length, a JSON header, then the tensors' bytes without gaps.

Source: the format's description at github.com/huggingface/safetensors. Every size in the header is checked
against the file before anything is allocated or read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeGuard

from petrun.errors import WeightsError
from petrun.tensors.dtypes import BY_SAFETENSORS
from petrun.tensors.table import Extent, Stored, Table, TensorInfo, unreadable
from petrun.typing import JsonObject

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself."""
_MAX_RANK = 32
_AGAIN = "The file is damaged: fetch or write it again."


def scan_safetensors(path: Path) -> Table:
    """Read a file's header. Raises WeightsError naming the file and, where one is at fault, the tensor."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            _check_header_length(path, len(prefix), length, size)
            raw = file.read(length)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(raw) < length:
        raise WeightsError(f"{path}: is cut off in its header", hint=_AGAIN)
    header = _parse_header(path, raw)
    metadata = _metadata(path, header.pop("__metadata__", {}))
    start = 8 + length
    tensors = {name: _stored(path, name, entry, start) for name, entry in header.items()}
    _check_layout(path, tensors, start, size)
    return Table(tensors, metadata)


def _check_header_length(path: Path, read: int, length: int, size: int) -> None:
    if read < 8:
        raise WeightsError(f"{path}: is cut off in its header", hint=_AGAIN)
    if length > MAX_HEADER_BYTES:
        raise WeightsError(
            f"{path}: claims a header of {length} bytes, over the limit of {MAX_HEADER_BYTES}", hint=_AGAIN
        )
    if 8 + length > size:
        raise WeightsError(
            f"{path}: is cut off: its header alone needs {8 + length} bytes, the file has {size}", hint=_AGAIN
        )


def _parse_header(path: Path, raw: bytes) -> JsonObject:
    def unique(pairs: list[tuple[str, object]]) -> JsonObject:
        found: JsonObject = {}
        for key, value in pairs:
            if key in found:
                raise WeightsError(f"{path}: its header names {key} twice", hint=_AGAIN)
            found[key] = value
        return found

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: its header is not valid JSON ({error})", hint=_AGAIN) from error
    if not isinstance(header, dict):
        raise WeightsError(f"{path}: its header is not a JSON object", hint=_AGAIN)
    return header


def _metadata(path: Path, value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise WeightsError(f"{path}: __metadata__ is not a map of strings", hint=_AGAIN)
    return dict(value)


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _stored(path: Path, name: str, entry: object, start: int) -> Stored:
    """Check one header entry by itself."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise WeightsError(
            f"{path}: the header's entry for tensor {name} lacks dtype, shape or data_offsets", hint=_AGAIN
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BY_SAFETENSORS:
        raise WeightsError(
            f"{path}: tensor {name} has the unknown element type {dtype!r}",
            hint=f"Known: {', '.join(BY_SAFETENSORS)}.",
        )
    if not isinstance(shape, list) or len(shape) > _MAX_RANK or not all(_whole(s) for s in shape):
        raise WeightsError(f"{path}: tensor {name} has the impossible shape {shape!r}", hint=_AGAIN)
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(_whole(o) for o in offsets)
        or offsets[0] > offsets[1]
    ):
        raise WeightsError(f"{path}: tensor {name} has the impossible data_offsets {offsets!r}", hint=_AGAIN)
    info = TensorInfo(tuple(shape), BY_SAFETENSORS[dtype].name)
    length = offsets[1] - offsets[0]
    if info.nbytes != length:
        raise WeightsError(
            f"{path}: tensor {name} ({info.dtype} {shape}) needs {info.nbytes} bytes and has {length}",
            hint=_AGAIN,
        )
    return Stored(info, (Extent(path=path, offset=start + offsets[0], length=length),))


def _check_layout(path: Path, tensors: dict[str, Stored], start: int, size: int) -> None:
    """Check that tensors follow one another from the header's end to the file's end, without overlap, gap or rest."""
    end, before = start, ""
    for name, stored in sorted(
        tensors.items(), key=lambda item: (item[1].extents[0].offset, item[1].extents[0].length)
    ):
        extent = stored.extents[0]
        if extent.offset < end:
            raise WeightsError(f"{path}: tensors {before} and {name} overlap", hint=_AGAIN)
        if extent.offset > end:
            raise WeightsError(
                f"{path}: {extent.offset - end} bytes before tensor {name} belong to no tensor", hint=_AGAIN
            )
        end, before = extent.offset + extent.length, name
        if end > size:
            raise WeightsError(
                f"{path}: is cut off: tensor {name} ends at byte {end}, the file has {size}", hint=_AGAIN
            )
    if end < size:
        raise WeightsError(f"{path}: has {size - end} bytes after the last tensor", hint=_AGAIN)
