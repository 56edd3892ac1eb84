"""A delta's tensors, read when asked for: a full fine-tuning is as large as its base and is never held
whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from petrun.errors import DeltaError
from petrun.tensors import Array, TensorReader, content_digest, tensor_digest


class LazyTensors(Mapping[str, Array]):
    """Name -> array, read from the file at every access. Floating-point tensors come as float32, others as
    stored.
    """

    def __init__(
        self, reader: TensorReader, names: Mapping[str, str] | None = None, turned: Collection[str] = ()
    ) -> None:
        """`names`: name here -> name in the file; without it, the file's own. `turned`: names whose matrix
        the file holds transposed."""
        self._reader = reader
        self._names = dict(names) if names is not None else {name: name for name in reader.names}
        self._turned = frozenset(turned)

    def __getitem__(self, name: str) -> Array:
        values = self._reader.read(self._names[name])
        if name in self._turned:
            values = np.ascontiguousarray(values.T)
        return values.astype(np.float32, copy=False) if values.dtype.kind == "f" else values

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self._reader.info(self._names[name]).shape
        return tuple(reversed(shape)) if name in self._turned else shape

    def renamed(self, names: Mapping[str, str], turned: Collection[str] = ()) -> LazyTensors:
        """The tensors listed in `names` (new name -> name here), under their new names; those in `turned`
        transposed.
        """
        again = {new for new, old in names.items() if (old in self._turned) != (new in turned)}
        return LazyTensors(self._reader, {new: self._names[old] for new, old in names.items()}, again)

    def checked_digest(self) -> str:
        """Digest of the content. Raises DeltaError where a tensor holds NaN or infinity."""
        parts = []
        for name, stored in self._names.items():
            info = self._reader.info(stored)
            refuse_nonfinite(str(self._reader.path), name, self._reader.read(stored))
            parts.append((name, info.dtype, info.shape, tensor_digest(self._reader, stored)))
        return content_digest(parts)


def arrays_digest(tensors: Mapping[str, Array]) -> str:
    """Digest of arrays in memory, equal to that of a file that holds them."""
    return content_digest((name, a.dtype.name, a.shape, _bytes_digest(a)) for name, a in tensors.items())


def _bytes_digest(values: Array) -> str:
    little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    return hashlib.sha256(little.data if little.size else b"").hexdigest()


def refuse_nonfinite(place: str, name: str, values: Array) -> None:
    if values.dtype.kind not in "fc" or np.isfinite(values).all():
        return
    bad = int(values.size - np.count_nonzero(np.isfinite(values)))
    raise DeltaError(
        f"{place}: {name} holds NaN or infinity in {bad} of {values.size} values",
        hint="The training that made it diverged: lower the learning rate, or use an earlier delta.",
    )
