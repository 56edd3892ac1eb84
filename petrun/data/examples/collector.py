"""Collects tokenised rows into the flat arrays of an ExampleSet, cutting what is too long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from petrun.data.examples.example_set import IGNORED, ExampleSet, Stats
from petrun.data.formats.records import Array


@dataclass(kw_only=True)
class Builder:
    """Rows in the data's order. `limit` is the most tokens of a row; `ends` are the ids that end a sequence.

    `openings`: what may open one, such as the BOS; a cut from the left keeps the first of them that the row has.
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
    class_values: list[Any] = field(default_factory=list)
    unread_keys: dict[str, None] = field(default_factory=dict)
    """Keys of messages that the chat template does not read."""
    notes: list[str] = field(default_factory=list)
    """What the user should know of how the rows were rendered."""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Stats.__dataclass_fields__, 0))

    def add(
        self,
        ids: Any,
        *,
        place: tuple[int, int, int],
        labels: Any = None,
        types: Any = None,
        mask: Any = None,
        prompt_length: int = 0,
        reference: str | None = None,
        other_references: tuple[str, ...] = (),
        from_left: bool = False,
        was_cut: bool = False,
    ) -> None:
        """Append one row. `place` is (row, file, line); `from_left` cuts the beginning, behind the BOS, instead of the end."""
        ids = np.asarray(ids, np.int32)
        length = len(ids)
        over = length > self.limit
        part: Any = self._kept_from_right(ids) if from_left and over else slice(0, self.limit)
        self.ids.append(ids[part])
        if self.decoder:
            whole = np.full(length, IGNORED, np.int32) if labels is None else np.asarray(labels, np.int32)
            kept = whole[part]
            self.labels.append(kept)
            self._count_supervised(whole, kept, over)
        self.types.append(np.zeros(0, np.int32) if types is None else np.asarray(types, np.int32)[part])
        self.masks.append(np.zeros(0, np.int32) if mask is None else np.asarray(mask, np.int32)[part])
        self.counts["cut"] += over or was_cut
        self.counts["used"] += 1
        self.counts["tokens"] += len(self.ids[-1])
        row, file, line = place
        self.rows.append((row, min(prompt_length, len(self.ids[-1])), file, line))
        self.references.append(reference)
        self.other_references.append(other_references)

    def _kept_from_right(self, ids: Array) -> Array:
        """Places of the tokens that a cut from the left leaves: what opens the sequence, and its end."""
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

    def finish(self, **given: Any) -> ExampleSet:
        """The ExampleSet of all rows so far; `given` are its remaining fields."""
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
            unread_keys=tuple(self.unread_keys), notes=tuple(self.notes), **given,
        )  # fmt: skip


def _joined(parts: list[Array]) -> Array:
    return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)
