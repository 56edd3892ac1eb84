"""Text that the tokenizer cannot say: what becomes the unknown token, and characters that are left out without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from petrun.data.formats.records import Array, Records
from petrun.data.rows.columns import Layout
from petrun.data.tokenizers.tokenizer import Tokenizer

MUCH = 0.01
"""Share of the tokens above which the data suffers."""
_EXAMPLES = 8
_LONGEST_EXAMPLE = 12
_BATCH = 512
_MOST_BATCHES = 40


def count_unknown(
    ids: Array, tables: list[Records], layouts: list[Layout], tokenizer: Tokenizer | None
) -> tuple[int, tuple[str, ...]]:
    """(unknown tokens among `ids` and characters left out of the text, examples of that text: the commonest first).

    Where there are any, the text is looked through for examples, up to 20,480 cells.
    """
    if tokenizer is None:
        return 0, ()
    count = int(np.count_nonzero(ids == tokenizer.unknown_id)) if tokenizer.unknown_id is not None else 0
    left_out = _left_out(tables, layouts, tokenizer) if tokenizer.leaves_out else Counter[str]()
    if not count and not left_out:
        return 0, ()
    found = left_out + (_spelt_unknown(_cells(tables, layouts), tokenizer) if count else Counter())
    return count + left_out.total(), tuple(text for text, _ in found.most_common(_EXAMPLES))


def _spelt_unknown(cells: Iterator[str], tokenizer: Tokenizer) -> Counter[str]:
    """What stood where the unknown token stands now."""
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


def _left_out(tables: list[Records], layouts: list[Layout], tokenizer: Tokenizer) -> Counter[str]:
    characters: Counter[str] = Counter()
    for cell in _cells(tables, layouts):
        characters.update(cell)
    return Counter({
        character: number
        for character, number in characters.items()
        if character.isprintable() and not character.isspace() and tokenizer.drops(character)
    })  # fmt: skip


def _cells(tables: list[Records], layouts: list[Layout]) -> Iterator[str]:
    for table, layout in zip(tables, layouts, strict=True):
        if table.stream is not None:
            yield from table.stream.splitlines()
            continue
        for row in table.rows:
            for column in layout.columns.values():
                yield from _texts(row.get(column))


def _texts(value: Any) -> Iterator[str]:
    """Every text in a cell, those of lists and objects too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _all_texts(value.values())
    elif isinstance(value, list | tuple):
        yield from _all_texts(value)


def _all_texts(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        yield from _texts(value)
