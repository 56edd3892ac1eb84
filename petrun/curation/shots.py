"""Put examples before the question of a row: other rows with their answers, drawn by the seed, or the most similar ones.

The examples stand in the question's own text, each as question, line end, answer, with an empty line after it; so every template takes
them, and none of their answers is learned. A row is never its own example, nor is any row with the same question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from petrun import console
from petrun.curation.keys import normalised, text_key
from petrun.curation.parts import PartReader, content_of, named_cells, prompt_column, with_prompt
from petrun.curation.reading import SKIP, DataRow, RowFiles
from petrun.curation.similarity import nearest
from petrun.data.chat.messages import is_conversation, read_conversation, read_messages
from petrun.data.examples.example_set import scramble
from petrun.errors import DataError
from petrun.tensors import Array
from petrun.typing import JsonObject

RANDOM, SIMILARITY = "random", "similarity"
NO_TURN = "not one question and one answer"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One question with its answer."""

    question: str
    answer: str

    @property
    def key(self) -> int:
        """Equal for equal questions."""
        return text_key(normalised(self.question))


class TurnReader:
    """Reads rows of one turn, and puts text before their questions."""

    def __init__(self) -> None:
        self._parts = PartReader()

    def __call__(self, row: DataRow) -> Turn:
        """Return the turn. Raises DataError for a row that has no question, or several turns."""
        row, schema = with_prompt(row, self._parts.schema(row))
        if not schema.kind.templated:
            raise DataError(f"{row.where}: holds {schema.kind.name}, not a question and an answer")
        if not schema.kind.conversation:
            both = self._parts(row)
            return Turn(question=both.question, answer=both.answer)
        whole = read_conversation(named_cells(row, schema), row.where).messages
        messages = [message for message in whole if message["role"] != "system"]
        if [message["role"] for message in messages] not in (["user", "assistant"], ["user"]):
            raise DataError(f"{row.where}: has several turns; examples are for rows of one question and one answer")
        return Turn(question=content_of(messages[0]), answer=content_of(messages[1]) if messages[1:] else "")

    def with_text(self, row: DataRow, text: str) -> JsonObject:
        """Return the row's cells with a text before its question. The row has been read by this reader."""
        row, schema = with_prompt(row, self._parts.schema(row))
        column = prompt_column(schema)
        cell = row.cells[column]
        if not is_conversation(cell):
            return {**row.cells, column: f"{text}{cell}"}
        messages = [dict(message) for message in read_messages(cell, row.where, column)]
        asked = next(message for message in messages if message["role"] == "user")
        asked["content"] = f"{text}{asked['content']}"
        return {**row.cells, column: messages}


def shown(turns: Sequence[Turn]) -> str:
    """Return examples as the text before a question."""
    return "".join(f"{turn.question}\n{turn.answer}\n\n" for turn in turns)


@dataclass(frozen=True)
class Pool:
    """Turns that may be examples."""

    turns: Sequence[Turn]
    keys: Array = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", np.array([turn.key for turn in self.turns], np.uint64))

    def random(self, row: int, key: int, count: int, seed: int) -> list[Turn]:
        """Draw examples for a row by its number and the seed. Fewer where the pool has not enough other questions."""
        found: list[Turn] = []
        # A few more than are needed, as some have the row's own question; all, where that was not enough.
        for tries in (4 * count + 16, None):
            order = self._order(row, seed, tries)
            found = [self.turns[i] for i in order if self.keys[i] != np.uint64(key)][:count]
            if len(found) == count:
                break
        return found

    def _order(self, row: int, seed: int, tries: int | None) -> list[int]:
        """Return numbers of turns in an order of their own for each row, each once."""
        if tries is None or tries >= len(self.turns):
            order: list[int] = np.argsort(
                scramble(np.arange(len(self.turns)), seed, "shots", row), kind="stable"
            ).tolist()
            return order
        drawn = scramble(np.arange(tries), seed, "shots", row) % np.uint64(len(self.turns))
        return list(dict.fromkeys(drawn.tolist()))

    def similar(self, keys: Sequence[int], queries: Array, vectors: Array, count: int) -> Iterator[list[Turn]]:
        """Yield the nearest examples of each row, the nearest last, beside its question.

        Inputs: `queries` (n, d) of the rows, `vectors` (m, d) of the pool, of length 1.
        """
        _, repeats = np.unique(self.keys, return_counts=True)
        numbers, _ = nearest(queries, vectors, count + int(repeats.max()))
        for key, row in zip(keys, numbers, strict=True):
            found = [self.turns[i] for i in row if self.keys[i] != np.uint64(key)][:count]
            yield found[::-1]


def read_pool(sources: RowFiles, against: Iterable[DataRow], *, quiet: bool) -> Pool:
    """Read the rows that may be examples: those with an answer whose question no row of `against` has.

    `quiet`: rows that are left out are told elsewhere. Raises: DataError where none is left.
    """
    reader = TurnReader()
    unseen = {reader(row).key for row in against}
    turns, unfit = [], 0
    for row in sources.rows(lambda bad: None if quiet else console.print_to_stderr(f"{bad.where}: {bad.problem}")):
        try:
            turn = reader(row)
        except DataError:
            if sources.on_bad_row != SKIP:
                raise
            unfit += 1
            continue
        if turn.answer.strip() and turn.key not in unseen:
            turns.append(turn)
    if not turns:
        raise DataError(
            "the pool holds no row with an answer" + (" that is not in an evaluation file" if unseen else "")
        )
    if unfit and not quiet:
        console.print_to_stderr(f"note: {unfit:,} rows of the pool are {NO_TURN}, and no examples")
    return Pool(turns)
