"""Read tensors lazily: a table holds the offsets of each tensor's bytes, and one tensor is read at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from petrun.errors import WeightsError, did_you_mean
from petrun.tensors.ckpt_file import scan_ckpt
from petrun.tensors.dtypes import BY_NAME, Array, from_bfloat16
from petrun.tensors.folder import scan_folder
from petrun.tensors.kinds import file_kind
from petrun.tensors.safetensors_file import scan_safetensors
from petrun.tensors.table import Extent, Stored, Table, TensorInfo, unreadable
from petrun.tensors.torch_file import scan_torch

_CHUNK_BYTES = 8 << 20


class TensorReader:
    """Named tensors of one file or folder. Only headers are held; every read opens, seeks and closes."""

    def __init__(self, path: Path, kind: str, table: Table) -> None:
        self.path = path
        self.kind = kind
        """"safetensors", "torch", "folder" or "ckpt"."""
        self.metadata: dict[str, str] = dict(table.metadata)
        self._tensors: Mapping[str, Stored] = table.tensors
        self._listed: Mapping[str, object] = table.tensors
        """Has a key for each name, in their order; a reader around another sets its own."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the order of the file."""
        return tuple(self._listed)

    def __contains__(self, name: object) -> bool:
        return name in self._listed

    def __len__(self) -> int:
        return len(self._listed)

    def info(self, name: str) -> TensorInfo:
        return self._stored(name).info

    def read(self, name: str) -> Array:
        """Return one tensor, C order, in its stored type; bfloat16 as the float32 of the same values.

        Raises WeightsError for an unknown name, a file cut short since it was opened, and an element type
        numpy cannot hold.
        """
        stored = self.read_stored(name)
        return from_bfloat16(stored) if self.info(name).dtype == "bfloat16" else stored

    def read_stored(self, name: str) -> Array:
        """Return one tensor's elements as stored: bfloat16 as uint16. Raises as `read` does."""
        info = self.info(name)
        element = BY_NAME[info.dtype]
        if element.numpy is None:
            raise WeightsError(
                f"{self.path}: tensor {name} is {info.dtype}, which cannot be read",
                hint="Use a float32, float16 or bfloat16 copy of the model.",
            )
        stored = np.empty(info.elements, np.dtype(element.numpy))
        if info.elements:
            self._fill(name, memoryview(stored.view(np.uint8).data))
        return stored.astype(stored.dtype.newbyteorder("="), copy=False).reshape(info.shape)

    def _fill(self, name: str, view: memoryview) -> None:
        """Read a tensor's bytes as stored into given memory."""
        filled = 0
        for extent in self._stored(name).extents:
            try:
                with extent.path.open("rb", buffering=0) as file:
                    file.seek(extent.offset)
                    end = filled + extent.length
                    while filled < end:
                        count = file.readinto(view[filled : min(end, filled + _CHUNK_BYTES)])
                        if not count:
                            raise self._short(extent, name, end - filled)
                        filled += count
            except OSError as error:
                raise unreadable(extent.path, error) from error

    def read_raw(self, name: str) -> bytes:
        """Return one tensor's bytes as stored."""
        return b"".join(self.raw_chunks(name))

    def raw_chunks(self, name: str, chunk_bytes: int = _CHUNK_BYTES) -> Iterator[bytes]:
        """Yield one tensor's bytes as stored, in chunks of at most `chunk_bytes`."""
        for extent in self._stored(name).extents:
            try:
                with extent.path.open("rb") as file:
                    file.seek(extent.offset)
                    yield from self._chunks(file, extent, name, chunk_bytes)
            except OSError as error:
                raise unreadable(extent.path, error) from error

    def _chunks(self, file: BinaryIO, extent: Extent, name: str, chunk_bytes: int) -> Iterator[bytes]:
        left = extent.length
        while left:
            chunk = file.read(min(left, chunk_bytes))
            if not chunk:
                raise self._short(extent, name, left)
            left -= len(chunk)
            yield chunk

    @staticmethod
    def _short(extent: Extent, name: str, left: int) -> WeightsError:
        return WeightsError(
            f"{extent.path}: ends inside tensor {name}, {left} bytes short",
            hint="The file was changed while it was being read: fetch it again.",
        )

    def _stored(self, name: str) -> Stored:
        if name not in self._tensors:
            raise WeightsError(f"{self.path}: holds no tensor {name}", hint=did_you_mean(name, self._tensors))
        return self._tensors[name]


def open_tensors(path: str | Path) -> TensorReader:
    """Open one .safetensors, MindSpore .ckpt or torch.save file, or a Hugging Face folder (one safetensors file or several, or where it has
    none pytorch_model.bin).

    The kind of a file is told by its first bytes, not by its name. Only headers are read; all sizes in them
    are checked against the file's size. A MindSpore checkpoint that carries a checksum is read through once
    and compared.

    Raises WeightsError: no such path; a truncated or inconsistent file; a missing shard; a file of another
    kind (another pickle, a Git LFS pointer, a web page, ...), with what to do.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return TensorReader(path, "folder", scan_folder(path))
        kind = file_kind(path)
    except OSError as error:
        raise unreadable(path, error) from error
    scan = {"safetensors": scan_safetensors, "torch": scan_torch, "ckpt": scan_ckpt}[kind]
    return TensorReader(path, kind, scan(path))
