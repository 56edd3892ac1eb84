"""Read a delta's tensors one at a time: the delta of a full fine-tuning is as large as its base and is never in memory at once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from petrun.errors import DeltaError
from petrun.tensors import Array, TensorReader, content_digest, tensor_digest


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor of the file, or some of its columns, and how it is converted."""

    stored: str
    """Name in the file."""
    transposed: bool = False
    """The file holds the transpose."""
    flat: bool = False
    """The file spreads a vector over several axes, (1, n) or (n, 1)."""
    columns: tuple[int, int] | None = None
    """Only these columns of a matrix: first, and one past the last."""

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        if self.columns is not None:
            return (stored[0], self.columns[1] - self.columns[0])
        if self.flat:
            return (math.prod(stored),)
        return tuple(reversed(stored)) if self.transposed else stored

    def values(self, stored: Array) -> Array:
        if self.columns is not None:
            return np.ascontiguousarray(stored[:, slice(*self.columns)])
        if self.flat:
            return stored.reshape(-1)
        return np.ascontiguousarray(stored.T) if self.transposed else stored


class LazyTensors(Mapping[str, Array]):
    """Maps names to arrays, read from the file at every access. Floating-point tensors are float32, others as stored."""

    def __init__(self, reader: TensorReader, parts: Mapping[str, StoredTensor] | None = None) -> None:
        """`parts`: name here -> its tensor in the file; without it, the file's own names."""
        self._reader = reader
        self._stored = dict(parts) if parts is not None else {name: StoredTensor(stored=name) for name in reader.names}

    def __getitem__(self, name: str) -> Array:
        part = self._stored[name]
        values = part.values(self._reader.read(part.stored))
        return values.astype(np.float32, copy=False) if values.dtype.kind == "f" else values

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        part = self._stored[name]
        return part.shape(self._reader.info(part.stored).shape)

    def renamed(
        self,
        names: Mapping[str, str],
        transposed: Collection[str] = (),
        flat: Collection[str] = (),
        columns: Mapping[str, tuple[int, int]] | None = None,
    ) -> LazyTensors:
        """Return the tensors listed in `names` (new name -> name here) under their new names: those in `transposed` transposed, those in
        `flat` as vectors, and only some columns of those in `columns`.
        """
        slices = columns or {}
        return LazyTensors(
            self._reader,
            {
                new: StoredTensor(
                    stored=self._stored[old].stored,
                    transposed=new in transposed,
                    flat=new in flat,
                    columns=slices.get(new),
                )
                for new, old in names.items()
            },
        )

    def checked_digest(self) -> str:
        """Return the digest of the content. Raises DeltaError where a tensor holds NaN or infinity."""
        parts = []
        for name, part in self._stored.items():
            info = self._reader.info(part.stored)
            values = part.values(self._reader.read(part.stored))
            refuse_nonfinite(str(self._reader.path), name, values)
            whole = part.columns is None
            digest = tensor_digest(self._reader, part.stored) if whole else _bytes_digest(values)
            parts.append((name, info.dtype, info.shape if part.transposed else self.shape(name), digest))
        return content_digest(parts)


class Computed(Mapping[str, Array]):
    """Maps names to arrays, computed at every access: a delta as large as its base is never in memory at once."""

    def __init__(self, makers: Mapping[str, tuple[tuple[int, ...], Callable[[], Array]]]) -> None:
        """`makers`: name -> its shape, and the function that computes the array."""
        self._makers = dict(makers)

    def __getitem__(self, name: str) -> Array:
        return self._makers[name][1]()

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._makers[name][0]


def arrays_digest(tensors: Mapping[str, Array]) -> str:
    """Return the digest of arrays in memory, equal to that of a file that holds them."""
    return content_digest(array_line(name, values) for name, values in tensors.items())


def array_line(name: str, values: Array) -> tuple[str, str, tuple[int, ...], str]:
    """Return the line of an array in a content digest."""
    return name, values.dtype.name, values.shape, _bytes_digest(values)


def _bytes_digest(values: Array) -> str:
    little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    return hashlib.sha256(little.data if little.size else b"").hexdigest()


def refuse_nonfinite(path: str, name: str, values: Array) -> None:
    if values.dtype.kind not in "fc" or np.isfinite(values).all():
        return
    bad = int(values.size - np.count_nonzero(np.isfinite(values)))
    raise DeltaError(
        f"{path}: {name} holds NaN or infinity in {bad} of {values.size} values",
        hint="The training that made it diverged: lower the learning rate, or use an earlier delta.",
    )
