"""Build an ExampleSet from blocks of rows, with memory for a few blocks only."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from petrun.data.examples.array_store import ArrayStore
from petrun.data.examples.collector import FILL, ExampleBlock
from petrun.data.examples.example_set import IGNORED, ExampleSet, Stats
from petrun.data.examples.texts import Texts
from petrun.data.formats.records import Array

_ORIGINS = ("row", "prompt_length", "file", "line")
_FILLED_AT_ONCE = 2**20


class ExampleSetBuilder:
    """Collects blocks in the data's order. With a folder, large sets go to unnamed files there (petrun/data/examples/array_store.py)."""

    def __init__(self, folder: Path | None) -> None:
        self._store = ArrayStore(folder)
        self._other_references: list[tuple[str, ...]] = []
        self._unused_keys: dict[str, None] = {}
        self._notes: dict[str, None] = {}
        self._several_references = 0
        self._stats = Stats()
        self.rows = self.blocks = self._tokens = 0

    def close(self) -> None:
        """Close the files; a finished set outlives them."""
        self._store.close()

    def extend(self, block: ExampleBlock) -> None:
        """Append the rows of a block."""
        count, tokens = len(block.lengths), int(block.lengths.sum())
        self._store.append("lengths", block.lengths)
        for name, column in zip(_ORIGINS, block.origins.T, strict=True):
            self._store.append(f"per_row/{name}", np.ascontiguousarray(column))
        for name, values in block.flat.items():
            if name not in FILL:
                self._store.append(f"flat/{name}", values)
        for name, fill in FILL.items():
            self._append_where_needed(f"flat/{name}", block.flat.get(name), fill, tokens, self._tokens)
        texts = Texts.of(block.references) if any(each is not None for each in block.references) else None
        self._append_where_needed("texts/sizes", None if texts is None else texts.sizes, -1, count, self.rows)
        if texts is not None:
            self._store.append("texts/content", texts.content)
        if self._other_references or any(block.other_references):
            self._other_references += [()] * (self.rows - len(self._other_references)) + block.other_references
        self._unused_keys |= block.unused_keys
        self._notes |= dict.fromkeys(block.notes)
        self._several_references += block.several_references
        self._stats += Stats(**block.counts)
        self.rows += count
        self.blocks += 1
        self._tokens += tokens

    def _append_where_needed(self, name: str, values: Array | None, fill: int, size: int, before: int) -> None:
        """Append to an array that is kept only where a block differs from `fill`; all `before` entries of earlier blocks do not."""
        if name not in self._store:
            if values is None or (values == fill).all():
                return
            for start in range(0, before, _FILLED_AT_ONCE):
                self._store.append(name, np.full(min(_FILLED_AT_ONCE, before - start), fill, values.dtype))
        if values is None:
            values = np.full(size, fill, np.int64 if name.startswith("texts") else np.int32)
        self._store.append(name, values)

    def finish(self, *, task: str, kind: str, read: int) -> ExampleSet:
        """Return the set of all rows of at least one block. `read`: rows that the files hold."""
        arrays = self._store.finish()
        groups: dict[str, dict[str, Array]] = {"flat": {}, "per_row": {}, "texts": {}}
        lengths = arrays.pop("lengths")
        for name, array in arrays.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = array
        groups["per_row"]["label"] = np.full(self.rows, IGNORED, np.int32)
        count = self._several_references
        several = (f"{count:,} rows have several references: the first is learned, metrics take all",) if count else ()
        return ExampleSet(
            task=task,
            kind=kind,
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            flat=groups["flat"],
            per_row=groups["per_row"],
            references=Texts(**groups["texts"]) if groups["texts"] else (),
            other_references=tuple(self._other_references),
            stats=self._stats + Stats(read=read),
            unused_keys=tuple(self._unused_keys),
            notes=(*several, *self._notes),
        )
