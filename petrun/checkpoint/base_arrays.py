"""Read a base's tensors under the net's own names, in its layout, as float32, one at a time and without a net."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from petrun.models.weights import Match, Source
from petrun.tensors import Array, TensorReader


class BaseArrays:
    """Maps a parameter's name to the base's array, and tells whether the base has one."""

    def __init__(self, reader: TensorReader, matched: Match, shared: Mapping[str, str] | None = None) -> None:
        """`shared`: name of the weight that a layer would have of its own -> the weight that it shares (models.base.shared_matrices)."""
        self.reader = reader
        self.found: Mapping[str, Source] = matched.found
        self.shared = shared or {}

    def _source(self, name: str) -> Source:
        return self.found[name if name in self.found else self.shared.get(name, name)]

    def __contains__(self, name: object) -> bool:
        return name in self.found or self.shared.get(str(name)) in self.found

    def __getitem__(self, name: str) -> Array:
        source = self._source(name)
        stored = self.reader.read(source.stored)
        values = np.ascontiguousarray(stored.T if source.transpose else stored)
        return values.astype(np.float32, copy=False) if values.dtype.kind == "f" else values

    def shape(self, name: str) -> tuple[int, ...]:
        source = self._source(name)
        shape = self.reader.info(source.stored).shape
        return tuple(reversed(shape)) if source.transpose else shape

    def is_float(self, name: str) -> bool:
        return "float" in self.reader.info(self._source(name).stored).dtype
