"""Count what files of rows hold: columns, lengths, languages, labels, equal rows, and rows that look wrong. A few bytes a row are kept."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from petrun.curation.keys import normalised, text_key
from petrun.curation.parts import PartReader
from petrun.curation.reading import DataRow, RowFiles, UnreadableRow
from petrun.errors import DataError
from petrun.typing import JsonObject

_MOST_LABELS = 1000
_MOST_NAMED = 10
_BATCH_ROWS = 1024
_QUANTILES = (0, 5, 25, 50, 75, 95, 99, 100)

CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""Texts -> tokens of each, without special tokens."""
NameLanguage = Callable[[str], str]


@dataclass(kw_only=True)
class RowStatistics:
    """What was counted."""

    rows: int = 0
    columns: Counter[str] = field(default_factory=Counter)
    """Column -> rows in which it holds something."""
    kinds: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    odd: Counter[str] = field(default_factory=Counter)
    """What looks wrong -> rows."""
    named: dict[str, list[str]] = field(default_factory=dict)
    """What looks wrong -> the first rows."""
    lengths: dict[str, array[int]] = field(default_factory=dict)
    """`question characters`, `answer tokens`, ... -> one number a row."""
    keys: array[int] = field(default_factory=lambda: array("Q"))
    question_keys: array[int] = field(default_factory=lambda: array("Q"))

    def note_odd(self, what: str, where: str) -> None:
        self.odd[what] += 1
        named = self.named.setdefault(what, [])
        if len(named) < _MOST_NAMED:
            named.append(where)

    def add_length(self, name: str, value: int) -> None:
        self.lengths.setdefault(name, array("I")).append(value)

    def facts(self) -> JsonObject:
        """Return all figures as one object for JSON."""
        return {
            "rows": self.rows,
            "columns": dict(self.columns.most_common()),
            "kinds": dict(self.kinds.most_common()),
            "labels": dict(self.labels.most_common(_MOST_LABELS)),
            "languages": dict(self.languages.most_common()),
            "lengths": {name: _quantiles(values) for name, values in self.lengths.items()},
            "rows equal to an earlier one": _repeats(self.keys),
            "questions equal to an earlier one": _repeats(self.question_keys),
            "odd": {what: {"rows": count, "first": self.named[what]} for what, count in self.odd.most_common()},
        }


def _repeats(keys: array[int]) -> int:
    return len(keys) - len(np.unique(np.frombuffer(keys, np.uint64))) if len(keys) else 0


def _quantiles(values: array[int]) -> JsonObject:
    numbers = np.frombuffer(values, np.uint32)
    found = np.percentile(numbers, _QUANTILES, method="inverted_cdf")
    quantiles = {f"p{q}": int(value) for q, value in zip(_QUANTILES, found, strict=True)}
    return {"mean": round(float(numbers.mean()), 2), "sum": int(numbers.sum(dtype=np.int64)), **quantiles}


def row_statistics(
    files: RowFiles, parts: PartReader, tokens: CountTokens | None, language: NameLanguage | None
) -> RowStatistics:
    """Count all rows. Raises DataError where no row can be read."""
    found = RowStatistics()

    def unreadable(row: UnreadableRow) -> None:
        found.note_odd("cannot be read", f"{row.where}: {row.problem}")

    waiting: list[tuple[str, str]] = []
    for row in files.rows(unreadable):
        texts = _add_row(found, row, parts, language)
        if texts is not None and tokens is not None:
            waiting.append(texts)
            if len(waiting) == _BATCH_ROWS:
                _add_tokens(found, waiting, tokens)
    if waiting and tokens is not None:
        _add_tokens(found, waiting, tokens)
    return found


def _add_row(
    found: RowStatistics, row: DataRow, parts: PartReader, language: NameLanguage | None
) -> tuple[str, str] | None:
    """Count one row. Returns its question and answer; None where it has none."""
    found.rows += 1
    found.columns.update(name for name, value in row.cells.items() if value not in (None, "", [], {}))
    try:
        both = parts(row)
        found.kinds[parts.schema(row).kind.name if parts.source is None else "two columns"] += 1
    except DataError as error:
        found.note_odd("no text", error.message)
        return None
    label = next((row.cells[name] for name in ("label", "labels") if row.cells.get(name) is not None), None)
    if isinstance(label, str | int | float) and len(found.labels) < _MOST_LABELS:
        found.labels[str(label)] += 1
    found.keys.append(text_key(normalised(both.text)))
    if both.question:
        found.question_keys.append(text_key(normalised(both.question)))
    found.add_length("question characters", len(both.question))
    found.add_length("answer characters", len(both.answer))
    if language is not None and both.text.strip():
        found.languages[language(both.answer.strip() or both.question)] += 1
    for what, wrong in (
        ("nothing but white space", not both.text.strip()),
        ("a question without an answer", bool(both.question.strip()) and not both.answer.strip()),
        ("question and answer are equal", bool(both.answer) and both.question.strip() == both.answer.strip()),
        ("U+FFFD, the mark of a character that was lost", "\ufffd" in both.text),
        ("control characters", any(ch < " " and ch not in "\n\t\r" for ch in both.text)),
    ):
        if wrong:
            found.note_odd(what, row.where)
    return both.question, both.answer


def _add_tokens(found: RowStatistics, waiting: list[tuple[str, str]], tokens: CountTokens) -> None:
    """Count the tokens of the rows that wait, and let them go."""
    questions, answers = zip(*waiting, strict=True)
    for asked, answered in zip(tokens(questions), tokens(answers), strict=True):
        found.add_length("question tokens", asked)
        found.add_length("answer tokens", answered)
        found.add_length("row tokens", asked + answered)
    waiting.clear()
