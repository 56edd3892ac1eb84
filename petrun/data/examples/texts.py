"""Hold many texts as the bytes of all of them, which may be mapped from a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np

from petrun.data.formats.records import Array


class Texts(Sequence[str | None]):
    """A text, or None, for every row."""

    def __init__(self, content: Array, sizes: Array) -> None:
        """`content`: (bytes,) uint8, all texts in UTF-8 one after the other; `sizes`: (n,) int64 bytes of each, -1 for None."""
        self.content, self.sizes = content, sizes
        self.ends = np.cumsum(np.maximum(sizes, 0))

    @classmethod
    def of(cls, texts: Sequence[str | None]) -> Texts:
        encoded = [None if text is None else text.encode("utf-8", "surrogatepass") for text in texts]
        sizes = np.array([-1 if each is None else len(each) for each in encoded], np.int64)
        return cls(np.frombuffer(b"".join(each for each in encoded if each is not None), np.uint8), sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> str | None: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str | None, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str | None, ...] | None:
        if isinstance(index, slice):
            return tuple(self[k] for k in range(*index.indices(len(self))))
        k = range(len(self))[index]
        size, end = int(self.sizes[k]), int(self.ends[k])
        return None if size < 0 else self.content[end - size : end].tobytes().decode("utf-8", "surrogatepass")

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(a == b for a, b in zip(self, other, strict=True))
        )
