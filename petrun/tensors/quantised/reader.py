"""Read a base whose matrices are in 8 or 4 bits, or are to be: every matrix under one name, as codes and as values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from petrun.tensors.dtypes import BY_NAME, Array, encoded
from petrun.tensors.quantised.packed import PackedLayout, PackedMatrix
from petrun.tensors.reader import TensorReader
from petrun.tensors.table import TensorInfo


@dataclass(frozen=True, kw_only=True)
class PackedTensor:
    """A matrix of a file that is in codes, or becomes so when it is read."""

    layout: PackedLayout
    dtype: str
    """The floating type that it had before it was quantised."""
    load: Callable[[], PackedMatrix]
    parts: tuple[str, ...] = ()
    """Tensors of the file that hold it; () where the file holds the matrix itself."""
    pack: Callable[[Array], PackedMatrix] | None = None
    """Quantises values (out, in), of a matrix that the file holds itself."""
    transposed: bool = False
    """Whether the name stands for the transpose, (in, out)."""
    kept: bool = True
    """Whether a net holds it in codes; False: it is read as values alone."""


class PackedReader(TensorReader):
    """Named tensors of a file, of which some are matrices in codes.

    `read` gives their values, float32, in the layout that the name stands for; `packed` their codes, (out, in).
    """

    def __init__(self, inner: TensorReader, packed: Mapping[str, PackedTensor]) -> None:
        """`packed`: name -> what it is; the tensors that are parts of one have no name of their own."""
        self.inner = inner
        self.tensors = dict(packed)
        self.path, self.metadata = inner.path, inner.metadata
        # A checkpoint stays one: readers leave its optimizer's state out. All else goes by values, not by the file's bytes.
        self.kind = inner.kind if inner.kind == "ckpt" else "packed"
        owners = {part: name for name, tensor in packed.items() for part in tensor.parts}
        self._listed = dict.fromkeys(owners.get(name, name) for name in inner.names)

    def info(self, name: str) -> TensorInfo:
        tensor = self.tensors.get(name)
        if tensor is None:
            return self.inner.info(name)
        shape = tensor.layout.shape
        return TensorInfo(tuple(reversed(shape)) if tensor.transposed else shape, tensor.dtype)

    def read(self, name: str) -> Array:
        tensor = self.tensors.get(name)
        if tensor is None:
            return self.inner.read(name)
        values = tensor.load().dequantised()
        return np.ascontiguousarray(values.T) if tensor.transposed else values

    def read_stored(self, name: str) -> Array:
        if name not in self.tensors:
            return self.inner.read_stored(name)
        info = self.info(name)
        stored = BY_NAME[info.dtype].numpy
        assert stored is not None, info.dtype
        return np.frombuffer(encoded(self.read(name), info.dtype), stored).reshape(info.shape)

    def raw_chunks(self, name: str, chunk_bytes: int = 8 << 20) -> Iterator[bytes]:
        if name not in self.tensors:
            yield from self.inner.raw_chunks(name, chunk_bytes)
            return
        values = encoded(self.read(name), self.info(name).dtype)
        for first in range(0, len(values), chunk_bytes):
            yield bytes(values[first : first + chunk_bytes])

    def held_packed(self, name: str) -> PackedTensor | None:
        """Return the matrix that a net holds in codes; None for any other tensor."""
        tensor = self.tensors.get(name)
        return tensor if tensor is not None and tensor.kept else None

    def turned(self, names: Collection[str]) -> PackedReader:
        """Return the reader with matrices whose names stand for transposes."""
        return PackedReader(self.inner, {n: replace(t, transposed=n in names) for n, t in self.tensors.items()})

    def keeping(self, names: Collection[str]) -> PackedReader:
        """Return the reader of whose matrices a net holds `names` alone in codes."""
        return PackedReader(self.inner, {n: replace(t, kept=n in names) for n, t in self.tensors.items()})


def packed_digest(matrix: PackedMatrix) -> str:
    """Return SHA-256 (hex) over the arrays of a matrix."""
    digest = hashlib.sha256()
    for name, values in matrix.arrays.items():
        digest.update(f"{name}:{values.dtype}:{values.size};".encode())
        digest.update(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).data)
    return digest.hexdigest()


def held_packed(reader: TensorReader, name: str) -> PackedTensor | None:
    """Return the matrix of a file that a net holds in codes; None for any other tensor."""
    return reader.held_packed(name) if isinstance(reader, PackedReader) else None
