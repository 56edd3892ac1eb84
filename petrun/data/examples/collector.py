"""Collect tokenised rows into the flat arrays of an ExampleSet, and truncate rows that are too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from petrun.data.examples.example_set import IGNORED, ExampleSet, Stats
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


@dataclass(kw_only=True)
class ExampleCollector:
    """Collects rows in the data's order. `limit` is the most tokens of a row; `ends` are the ids that end a sequence.

    `openings`: ids that may begin a sequence, such as the BOS; truncation from the left keeps the first of them that the row has.
    """

    limit: int
    ends: frozenset[int] = frozenset()
    decoder: bool = True
    openings: tuple[tuple[int, ...], ...] = ()
    ids: list[Array] = field(default_factory=list)
    labels: list[Array] = field(default_factory=list)
    types: list[Array] = field(default_factory=list)
    masks: list[Array] = field(default_factory=list)
    rows: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(row, prompt_length, file, line)."""
    references: list[str | None] = field(default_factory=list)
    other_references: list[tuple[str, ...]] = field(default_factory=list)
    unused_keys: dict[str, None] = field(default_factory=dict)
    """Keys of messages that the chat template does not read."""
    notes: list[str] = field(default_factory=list)
    """Notes for the user on how the rows were rendered."""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Stats.__dataclass_fields__, 0))

    def add(self, row: TokenizedRow, *, from_left: bool = False, was_cut: bool = False) -> None:
        """Append one row. `from_left` truncates the beginning, after the BOS, instead of the end."""
        ids = np.asarray(row.ids, np.int32)
        length = len(ids)
        over = length > self.limit
        kept: Array | slice = self._kept_from_right(ids) if from_left and over else slice(0, self.limit)
        self.ids.append(ids[kept])
        if self.decoder:
            labels = np.full(length, IGNORED, np.int32) if row.labels is None else np.asarray(row.labels, np.int32)
            self.labels.append(labels[kept])
            self._count_supervised(labels, labels[kept], over)
        self.types.append(np.zeros(0, np.int32) if row.types is None else np.asarray(row.types, np.int32)[kept])
        self.masks.append(np.zeros(0, np.int32) if row.mask is None else np.asarray(row.mask, np.int32)[kept])
        self.counts["cut"] += over or was_cut
        self.counts["used"] += 1
        self.counts["tokens"] += len(self.ids[-1])
        origin = row.origin
        self.rows.append((origin.row, min(row.prompt_length, len(self.ids[-1])), origin.file, origin.line))
        self.references.append(row.reference)
        self.other_references.append(row.other_references)

    def _kept_from_right(self, ids: Array) -> Array:
        """Return the positions of the tokens that truncation from the left keeps: those that begin the sequence, and its end."""
        found = next((len(o) for o in self.openings if o and ids[: len(o)].tolist() == list(o)), 0)
        opening = found if found < self.limit else 0
        return np.concatenate([np.arange(opening), np.arange(len(ids) - self.limit + opening, len(ids))])

    def _count_supervised(self, whole: Array, kept: Array, over: bool) -> None:
        scored = np.flatnonzero(kept[1:] != IGNORED) + 1
        self.counts["supervised"] += len(scored)
        if len(scored) and int(kept[scored[-1]]) in self.ends:
            self.counts["eos_supervised"] += 1
        if over and not len(scored) and (whole[1:] != IGNORED).any():
            self.counts["completion_gone"] += 1

    def finish(self, *, task: str, kind: str) -> ExampleSet:
        """Return the ExampleSet of all rows so far."""
        lengths = np.array([len(ids) for ids in self.ids], np.int64)
        flat = {"input_ids": _joined(self.ids)}
        if self.decoder:
            flat["labels"] = _joined(self.labels)
        for name, parts, fill in (("token_type_ids", self.types, 0), ("mask", self.masks, 1)):
            full = [
                part if len(part) else np.full(length, fill, np.int32)
                for part, length in zip(parts, lengths, strict=True)
            ]
            joined = _joined(full)
            if (joined != fill).any():
                flat[name] = joined
        table = np.array(self.rows, np.int32).reshape(-1, 4)
        per_row = {
            name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(("row", "prompt_length", "file", "line"))
        }
        per_row["label"] = np.full(len(table), IGNORED, np.int32)
        references = tuple(self.references) if any(reference is not None for reference in self.references) else ()
        return ExampleSet(
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            flat=flat, per_row=per_row, references=references,
            other_references=tuple(self.other_references) if any(self.other_references) else (), stats=Stats(**self.counts),
            unused_keys=tuple(self.unused_keys), notes=tuple(self.notes), task=task, kind=kind,
        )  # fmt: skip


def _joined(parts: list[Array]) -> Array:
    return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)
