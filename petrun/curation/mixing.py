"""Mix files of rows by shares, with a tag on the rows of a file that says where they come from.

A tag keeps apart what a model should not take for the same: answers that a model wrote, and answers that people wrote.
Sources: a sentence in the system text, Li et al., "Self-Alignment with Instruction Backtranslation", ICLR 2024, section 2.3; a token
before the question, Caswell, Chelba and Grangier, "Tagged Back-Translation", WMT 2019.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from petrun.curation.keys import draw_order
from petrun.curation.parts import PartReader, prompt_column, with_prompt
from petrun.curation.reading import DataRow
from petrun.data.chat.messages import as_messages, is_conversation, read_messages
from petrun.data.rows.shares import split_share
from petrun.errors import ConfigError, DataError
from petrun.tensors import Array
from petrun.typing import JsonObject

SYSTEM, TOKEN = "system", "token"
_SLICE_OR_WEIGHT = re.compile(r"#\d+:\d+$")
"""The end of `rows.jsonl#100:200`: rows 100 to 199 with weight 1, or the first 100 rows with weight 200."""


@dataclass(frozen=True, kw_only=True)
class MixPart:
    """One file of a mix."""

    path: str
    weight: float
    """Its share of the result, over the sum of all weights."""
    tag: str = ""


def parse_part(text: str) -> MixPart:
    """`a.jsonl:0.7:tag=From the web.` -> its parts; the weight is 1 where none is given. Raises ConfigError."""
    body, marker, tag = text.partition(":tag=")
    if _SLICE_OR_WEIGHT.search(body):
        path, _, number = body.rpartition(":")
        raise ConfigError(
            f"{text}: rows from one number to the other with weight 1, or {path} with weight {number}?",
            hint=f"{body}:1 is the first, {path.replace('#', '#:')}:{number} the second.",
        )
    path, weight = split_share(body)
    if marker and not tag.strip():
        raise ConfigError(f"{text}: the tag is empty")
    return MixPart(path=path, weight=1.0 if weight is None else weight, tag=tag)


def draw(available: int, wanted: int, seed: int, file: int) -> Array:
    """Return how often each row of a file is taken, (available,) int64: whole copies, then rows drawn by the seed."""
    times = np.full(available, wanted // available, np.int64)
    times[draw_order(available, seed, f"mix {file}")[: wanted % available]] += 1
    return times


class Tagger:
    """Puts a tag on rows."""

    def __init__(self, tag: str, how: str) -> None:
        """`how`: SYSTEM, a sentence of its own at the end of the system text; TOKEN, before the question."""
        self._tag = tag
        self._how = how
        self._parts = PartReader()

    def __call__(self, row: DataRow) -> JsonObject:
        """Return the row's cells with the tag. Raises DataError for a row without a question."""
        if not self._tag:
            return row.cells
        row, schema = with_prompt(row, self._parts.schema(row))
        if not schema.kind.templated:
            raise DataError(f"{row.where}: a tag needs a row with a question; this one holds {schema.kind.name}")
        if not schema.kind.conversation:
            if self._how == SYSTEM:
                column = schema.columns.get("system", "system")
                return {**row.cells, column: _sentence(row.cells.get(column), self._tag)}
            column = prompt_column(schema)
            return {**row.cells, column: f"{self._tag} {row.cells[column]}"}
        column = prompt_column(schema)
        cell = row.cells[column]
        messages = [
            dict(message)
            for message in (
                read_messages(cell, row.where, column) if is_conversation(cell) else as_messages(str(cell), None)
            )
        ]
        if self._how == SYSTEM and row.cells.get("system"):
            return {**row.cells, "system": _sentence(row.cells["system"], self._tag)}
        role = "system" if self._how == SYSTEM else "user"
        found = next((message for message in messages if message["role"] == role), None)
        if found is not None:
            text = str(found["content"])
            found["content"] = _sentence(text, self._tag) if self._how == SYSTEM else f"{self._tag} {text}"
        elif self._how == SYSTEM:
            messages.insert(0, {"role": "system", "content": self._tag})
        else:
            raise DataError(f"{row.where}: no message of the user to put a tag before")
        return {**row.cells, column: messages}


def _sentence(before: object, tag: str) -> str:
    return f"{before} {tag}" if isinstance(before, str) and before else tag
