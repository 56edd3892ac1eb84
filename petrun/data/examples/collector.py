"""Collect tokenised rows into flat arrays, and truncate rows that are too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from petrun.data.examples.example_set import IGNORED, Stats
from petrun.data.formats.records import Array


@dataclass(frozen=True, kw_only=True)
class RowOrigin:
    """The source of a row."""

    row: int
    """Its number over all files, in the order of reading."""
    file: int
    line: int


@dataclass(frozen=True, kw_only=True)
class TokenizedRow:
    """One row of t tokens before it is truncated to the limit."""

    ids: Sequence[int] | Array
    origin: RowOrigin
    labels: Sequence[int] | Array | None = None
    """(t,), not shifted, -100 = not scored; None where no token is."""
    types: Sequence[int] | Array | None = None
    mask: Array | None = None
    prompt_length: int = 0
    reference: str | None = None
    other_references: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CollectSettings:
    """How rows are truncated and counted."""

    limit: int
    """Most tokens of a row."""
    ends: frozenset[int] = frozenset()
    """Ids that end a sequence."""
    decoder: bool = True
    openings: tuple[tuple[int, ...], ...] = ()
    """Ids that may begin a sequence, such as the BOS; truncation from the left keeps the first of them that the row has."""


@dataclass(frozen=True, kw_only=True)
class ExampleBlock:
    """Some rows of a data set, in order: n rows of S tokens together."""

    lengths: Array
    """(n,) int64."""
    flat: dict[str, Array]
    """(S,) int32 each: input_ids; labels (decoders); token_type_ids and mask where any row has them."""
    origins: Array
    """(n, 4) int32: row, prompt_length, file, line."""
    references: list[str | None]
    other_references: list[tuple[str, ...]]
    counts: dict[str, int]
    unused_keys: dict[str, None]
    notes: list[str]
    several_references: int


FILL = {"token_type_ids": 0, "mask": 1}
"""Arrays that a row may be without, and what each then holds."""


@dataclass(kw_only=True)
class ExampleCollector:
    """Collects rows in the data's order. Rows stay as they are given until all of them are made arrays at once."""

    settings: CollectSettings
    ids: list[Sequence[int] | Array] = field(default_factory=list)
    labels: list[Sequence[int] | Array | None] = field(default_factory=list)
    types: list[Sequence[int] | Array | None] = field(default_factory=list)
    masks: list[Sequence[int] | Array | None] = field(default_factory=list)
    origins: list[tuple[int, int, int, int]] = field(default_factory=list)
    references: list[str | None] = field(default_factory=list)
    other_references: list[tuple[str, ...]] = field(default_factory=list)
    unused_keys: dict[str, None] = field(default_factory=dict)
    """Keys of messages that the chat template does not read."""
    notes: list[str] = field(default_factory=list)
    """Notes for the user on how the rows were rendered."""
    several_references: int = 0
    """Rows with several references."""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Stats.__dataclass_fields__, 0))

    def add(self, row: TokenizedRow, *, from_left: bool = False, was_cut: bool = False) -> None:
        """Append one row. `from_left` truncates the beginning, after the BOS, instead of the end."""
        ids, labels, types, mask = row.ids, row.labels, row.types, row.mask
        over = len(ids) > self.settings.limit
        if over:
            whole = np.asarray(ids, np.int32)
            kept: Array | slice = self._kept_from_right(whole) if from_left else slice(0, self.settings.limit)
            ids = whole[kept]
            types, mask = (None if part is None else np.asarray(part, np.int32)[kept] for part in (types, mask))
            if labels is not None:
                before = np.asarray(labels, np.int32)
                labels = before[kept]
                gone = not (labels[1:] != IGNORED).any() and (before[1:] != IGNORED).any()
                self.counts["completion_gone"] += bool(gone and self.settings.decoder)
        self.ids.append(ids)
        self.labels.append(labels)
        self.types.append(types)
        self.masks.append(mask)
        self.counts["cut"] += over or was_cut
        origin = row.origin
        self.origins.append((origin.row, min(row.prompt_length, len(ids)), origin.file, origin.line))
        self.references.append(row.reference)
        self.other_references.append(row.other_references)

    def _kept_from_right(self, ids: Array) -> Array:
        """Return the positions of the tokens that truncation from the left keeps: those that begin the sequence, and its end."""
        limit = self.settings.limit
        found = next((len(o) for o in self.settings.openings if o and ids[: len(o)].tolist() == list(o)), 0)
        opening = found if found < limit else 0
        return np.concatenate([np.arange(opening), np.arange(len(ids) - limit + opening, len(ids))])

    def block(self) -> ExampleBlock:
        """Return all rows so far as arrays."""
        lengths = np.fromiter(map(len, self.ids), np.int64, len(self.ids))
        flat = {"input_ids": _joined(self.ids, lengths, IGNORED)}
        if self.settings.decoder:
            # Where every token is learned, the labels are the ids themselves.
            same = all(labels is ids for labels, ids in zip(self.labels, self.ids, strict=True))
            flat["labels"] = flat["input_ids"] if same else _joined(self.labels, lengths, IGNORED)
            self._count_supervised(flat["labels"], lengths)
        for name, parts in (("token_type_ids", self.types), ("mask", self.masks)):
            if any(part is not None for part in parts):
                flat[name] = _joined(parts, lengths, FILL[name])
        self.counts["used"] = len(lengths)
        self.counts["tokens"] = int(lengths.sum())
        return ExampleBlock(
            lengths=lengths,
            flat=flat,
            origins=np.array(self.origins, np.int32).reshape(-1, 4),
            references=self.references,
            other_references=self.other_references,
            counts=self.counts,
            unused_keys=self.unused_keys,
            notes=self.notes,
            several_references=self.several_references,
        )

    def _count_supervised(self, labels: Array, lengths: Array) -> None:
        filled = lengths[lengths > 0]
        if not len(filled):
            return
        starts = np.concatenate([[0], np.cumsum(filled)[:-1]])
        scored = labels != IGNORED
        # A row's first token is never predicted.
        scored[starts] = False
        self.counts["supervised"] = int(np.count_nonzero(scored))
        last = np.maximum.reduceat(np.where(scored, np.arange(len(labels)), -1), starts)
        ends = np.array(sorted(self.settings.ends), np.int64)
        self.counts["eos_supervised"] = int(np.isin(labels[last[last >= 0]], ends).sum())


def _joined(parts: Sequence[Sequence[int] | Array | None], lengths: Array, fill: int) -> Array:
    """Join the rows' values to (S,) int32; a row without any holds `fill`."""
    if any(isinstance(part, np.ndarray) for part in parts):
        arrays = [
            np.full(length, fill, np.int32) if part is None else np.asarray(part, np.int32)
            for part, length in zip(parts, lengths.tolist(), strict=True)
        ]
        return np.concatenate(arrays)
    rows = ([fill] * length if part is None else part for part, length in zip(parts, lengths.tolist(), strict=True))
    return np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum()))
