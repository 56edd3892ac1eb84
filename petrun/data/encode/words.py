"""Encode rows of words that each have a tag: {tokens: [...], tags: [...]}.

The first token of a word has the word's tag; the others of the word, and special tokens, are not scored, as in transformers' example of
token classification. Until the tags of all rows are numbered, a label is the number of its word within the row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from petrun.data.encode.file_rows import FileRows
from petrun.data.encode.segments import EncodeSettings
from petrun.data.examples.collector import ExampleCollector, TokenizedRow
from petrun.data.examples.example_set import IGNORED
from petrun.data.formats.records import Array, Records
from petrun.data.rows.columns import RowSchema
from petrun.errors import DataError


def encode_words(rows: FileRows, settings: EncodeSettings, out: ExampleCollector) -> None:
    """Encode every row; a row that is too long loses its last words. Raises DataError naming line and column."""
    tokenizer = settings.tokenizer
    words = [_words(rows, i) for i in range(len(rows))]
    room = max(0, settings.limit - len(tokenizer.prefix_ids) - len(tokenizer.suffix_ids))
    for i, (ids, of_word) in enumerate(tokenizer.encode_words(words)):
        if not ids:
            raise DataError(f"{rows.where(i)}: the words give no tokens", hint="Empty rows cannot be tagged.")
        kept = ids[:room]
        before, behind = ([IGNORED] * len(part) for part in (tokenizer.prefix_ids, tokenizer.suffix_ids))
        whole = [*tokenizer.prefix_ids, *kept, *tokenizer.suffix_ids]
        labels = [*before, *_first_tokens(of_word)[:room], *behind]
        out.add(TokenizedRow(ids=whole, origin=rows.origin(i), labels=labels), was_cut=len(kept) < len(ids))


def _words(rows: FileRows, i: int) -> list[str]:
    column = rows.schema.columns["words"]
    found = _list(rows.records, i, column)
    words = [word for word in found if isinstance(word, str)]
    if not words or len(words) < len(found):
        raise DataError(f"{rows.where(i)}: column '{column}' holds {str(found)[:40]}, expected a list of words")
    return words


def _first_tokens(of_word: Sequence[int]) -> list[int]:
    """Return the number of the word at its first token, and -100 at the others."""
    before = (-1, *of_word)
    return [word if word != previous else IGNORED for previous, word in zip(before, of_word, strict=False)]


def tags_of(table: Records, schema: RowSchema) -> list[list[object]]:
    """Return the tags of every row. Raises DataError for a row whose tags are not as many as its words."""
    found = []
    for i in range(len(table)):
        tags, words = (_list(table, i, schema.columns[name]) for name in ("label", "words"))
        if len(tags) != len(words):
            raise DataError(f"{table.where(i)}: {len(tags)} tags for {len(words)} words")
        found.append(tags)
    return found


def numbered(labels: Array, offsets: Array, tags: Array, counts: Array) -> Array:
    """Return labels (S,) with the tag of the word that stands there.

    `labels`: numbers of words within their rows, -100 elsewhere; `offsets`: as ExampleSet's; `tags`: of all words of all rows; `counts`:
    words of each row.
    """
    first = np.repeat(np.concatenate([[0], np.cumsum(counts)[:-1]]), np.diff(offsets))
    scored = labels != IGNORED
    return np.where(scored, tags[np.where(scored, first + labels, 0)], IGNORED).astype(np.int32)


def _list(table: Records, i: int, column: str) -> list[object]:
    cell = table.rows[i].get(column)
    if isinstance(cell, np.ndarray):
        return list(cell.tolist())
    if not isinstance(cell, list | tuple):
        what = "is missing" if cell is None else f"is {type(cell).__name__} {str(cell)[:40]!r}, expected a list"
        raise DataError(f"{table.where(i)}: column '{column}' {what}")
    return list(cell)
