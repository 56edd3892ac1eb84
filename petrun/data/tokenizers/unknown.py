"""Count text that the tokenizer does not know: it becomes the unknown token, or gives no token at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from petrun.data.formats.records import Array, Records
from petrun.data.rows.columns import RowSchema
from petrun.data.tokenizers.tokenizer import Tokenizer

MUCH = 0.01
"""Share of the tokens above which the data suffers."""
_EXAMPLES = 8
_LONGEST_EXAMPLE = 12
_BATCH = 512
_MOST_BATCHES = 40


def count_unknown(
    ids: Iterable[Array], tables: list[Records], schemas: list[RowSchema], tokenizer: Tokenizer | None
) -> tuple[int, tuple[str, ...]]:
    """Return (unknown tokens among `ids` and characters left out of the text, examples of that text: the commonest first).

    Inputs: `ids`, arrays one after the other. Where there are any such tokens, up to 20,480 cells are searched for examples.
    """
    if tokenizer is None:
        return 0, ()
    unknown = tokenizer.unknown_id
    count = 0 if unknown is None else sum(int(np.count_nonzero(part == unknown)) for part in ids)
    left_out = _left_out(tables, schemas, tokenizer) if tokenizer.leaves_out else Counter[str]()
    if not count and not left_out:
        return 0, ()
    found = left_out + (_unknown_stretches(_cells(tables, schemas), tokenizer) if count else Counter())
    return count + left_out.total(), tuple(text for text, _ in found.most_common(_EXAMPLES))


def _unknown_stretches(cells: Iterator[str], tokenizer: Tokenizer) -> Counter[str]:
    """Count the parts of text that became the unknown token."""
    found: Counter[str] = Counter()
    for _ in range(_MOST_BATCHES):
        batch = [cell for _, cell in zip(range(_BATCH), cells, strict=False)]
        if not batch:
            break
        for text in tokenizer.unknown_stretches(batch):
            found[text[:_LONGEST_EXAMPLE] + ("..." if len(text) > _LONGEST_EXAMPLE else "")] += 1
        if len(found) >= _EXAMPLES:
            break
    return found


def _left_out(tables: list[Records], schemas: list[RowSchema], tokenizer: Tokenizer) -> Counter[str]:
    characters: Counter[str] = Counter()
    for cell in _cells(tables, schemas):
        characters.update(cell)
    return Counter({
        character: number
        for character, number in characters.items()
        if character.isprintable() and not character.isspace() and tokenizer.drops(character)
    })  # fmt: skip


def _cells(tables: list[Records], schemas: list[RowSchema]) -> Iterator[str]:
    for table, schema in zip(tables, schemas, strict=True):
        if table.stream is not None:
            yield from table.stream.splitlines()
            continue
        for row in table.rows:
            for column in schema.columns.values():
                yield from _texts(row.get(column))


def _texts(value: object) -> Iterator[str]:
    """Return every text in a cell, those in lists and objects too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _all_texts(value.values())
    elif isinstance(value, list | tuple):
        yield from _all_texts(value)


def _all_texts(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        yield from _texts(value)
