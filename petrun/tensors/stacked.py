"""Read matrices of one shape as one tensor, where the net holds them as a stack and the file each by itself, or joined with others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from petrun.errors import WeightsError
from petrun.tensors.dtypes import Array, from_bfloat16
from petrun.tensors.reader import TensorReader
from petrun.tensors.table import TensorInfo


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What a stack (E, out, in) is made of: `parts`, or of one tensor (E, rows, in) the rows `begin` to `end` of each matrix."""

    parts: tuple[str, ...] = ()
    joined: str = ""
    begin: int = 0
    end: int | None = None
    """None: all rows that follow."""


class StackedReader(TensorReader):
    """Named tensors of a file, of which some are stacks of what the file holds. Raises WeightsError where parts differ in shape or type."""

    def __init__(self, inner: TensorReader, stacks: Mapping[str, Stack], renamed: Mapping[str, str]) -> None:
        """`stacks`: name -> what it is made of, which has no name of its own then; `renamed`: name in the file -> name here."""
        self.inner, self.stacks = inner, dict(stacks)
        self.path, self.metadata, self.kind = inner.path, inner.metadata, inner.kind
        self._own = {new: old for old, new in renamed.items()}
        """Name here -> name in the file, where they differ."""
        owners: dict[str, list[str]] = {}
        for name, stack in stacks.items():
            for part in stack.parts or (stack.joined,):
                owners.setdefault(part, []).append(name)
        self._listed = dict.fromkeys(
            n for stored in inner.names for n in owners.get(stored, [renamed.get(stored, stored)])
        )
        self._last: tuple[str, Array] | None = None
        """The joined tensor that was read last: its stacks are read one after another, and a merge reads a stack matrix by matrix."""
        for name in stacks:
            self._check_parts(name)

    def _check_parts(self, name: str) -> None:
        infos = {part: self.inner.info(part) for part in self.stacks[name].parts}
        first = next(iter(infos.items()), None)
        for part, info in infos.items():
            if first is not None and (info.shape, info.dtype) != (first[1].shape, first[1].dtype):
                raise WeightsError(
                    f"{self.path}: {part} is {list(info.shape)} {info.dtype}, {first[0]} is {list(first[1].shape)} {first[1].dtype}",
                    hint="The experts of a layer have one shape and one type: fetch the file again.",
                )

    def info(self, name: str) -> TensorInfo:
        stack = self.stacks.get(name)
        if stack is None:
            return self.inner.info(self._own.get(name, name))
        if stack.parts:
            one = self.inner.info(stack.parts[0])
            return TensorInfo((len(stack.parts), *one.shape), one.dtype)
        whole = self.inner.info(stack.joined)
        if len(whole.shape) != 3:
            return whole
        rows = range(whole.shape[1])[stack.begin : stack.end]
        return TensorInfo((whole.shape[0], len(rows), whole.shape[2]), whole.dtype)

    def read(self, name: str) -> Array:
        stack = self.stacks.get(name)
        if stack is None:
            return self.inner.read(self._own.get(name, name))
        if stack.parts:
            return np.stack([self.inner.read(part) for part in stack.parts])
        stored = self.read_stored(name)
        return from_bfloat16(stored) if self.info(name).dtype == "bfloat16" else stored

    def read_stored(self, name: str) -> Array:
        stack = self.stacks.get(name)
        if stack is None:
            return self.inner.read_stored(self._own.get(name, name))
        if stack.parts:
            return np.stack([self.inner.read_stored(part) for part in stack.parts])
        last = self._last
        if last is None or last[0] != stack.joined:
            self._last = last = (stack.joined, self.inner.read_stored(stack.joined))
        return np.ascontiguousarray(last[1][:, stack.begin : stack.end])

    def raw_chunks(self, name: str, chunk_bytes: int = 8 << 20) -> Iterator[bytes]:
        stack = self.stacks.get(name)
        if stack is None:
            yield from self.inner.raw_chunks(self._own.get(name, name), chunk_bytes)
            return
        for part in stack.parts:
            yield from self.inner.raw_chunks(part, chunk_bytes)
        if not stack.parts:
            values = memoryview(self.read_stored(name).reshape(-1).view(np.uint8).data)
            for first in range(0, len(values), chunk_bytes):
                yield bytes(values[first : first + chunk_bytes])


def matrix_chunks(reader: TensorReader, name: str, index: int | None) -> Iterator[bytes]:
    """Yield the bytes of a tensor as stored, or of one matrix of a stack, a few megabytes at a time."""
    part = _part(reader, name, index)
    if index is None or part is not None:
        yield from reader.raw_chunks(name) if part is None else part[0].raw_chunks(part[1])
        return
    yield reader.read_stored(name)[index].tobytes()


def read_matrix(reader: TensorReader, name: str, index: int | None) -> Array:
    """Return a tensor, or one matrix of a stack, as TensorReader.read does."""
    part = _part(reader, name, index)
    if part is not None:
        return part[0].read(part[1])
    values = reader.read(name)
    return values if index is None else values[index]


def _part(reader: TensorReader, name: str, index: int | None) -> tuple[TensorReader, str] | None:
    """Return the reader and the name of a matrix that a file holds by itself."""
    if index is None or not isinstance(reader, StackedReader):
        return None
    stack = reader.stacks.get(name)
    return (reader.inner, stack.parts[index]) if stack is not None and stack.parts else None
