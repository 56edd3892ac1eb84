"""Clean rows: rules row by row, then exact and near duplicates, then what an evaluation file holds as well.

Files are read twice: once to judge every row, once to write. Memory holds some tens of bytes a row, a temporary file 512 bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from petrun.curation.keys import normalised, text_key
from petrun.curation.near_duplicates import NearDuplicates
from petrun.curation.output import RowOutput
from petrun.curation.parts import PartReader, RowParts, part_of
from petrun.curation.reading import DataRow, RowFiles
from petrun.curation.rules import Limits, Rule, first_finding
from petrun.errors import DataError
from petrun.tensors import Array

NO_TEXT, DUPLICATE, NEAR_DUPLICATE, LEAKED, NEAR_LEAKED = (
    "no text",
    "duplicate",
    "near duplicate",
    "in an evaluation file",
    "near an evaluation file",
)


@dataclass(frozen=True, kw_only=True)
class CleaningPlan:
    """What is done to the rows."""

    limits: Limits
    rules: Sequence[Rule]
    parts: PartReader
    key: str = "row"
    """What makes rows duplicates: all of their text, the question, or the answer."""
    near: float = 0.8
    """Least similarity of near duplicates; 0: only exact ones are dropped."""
    against: RowFiles | None = None
    """Evaluation files, whose questions must not be trained on."""


@dataclass(kw_only=True)
class _Places:
    """Where each judged row stands, for messages that name another row."""

    names: list[str]
    files: array[int]
    lines: array[int]

    def add(self, row: DataRow) -> None:
        if not self.names or self.names[-1] != row.file:
            self.names.append(row.file)
        self.files.append(len(self.names) - 1)
        self.lines.append(row.line)

    def of(self, number: int) -> str:
        return f"{self.names[self.files[number]]}, line {self.lines[number]}"


def clean(files: RowFiles, plan: CleaningPlan, output: RowOutput, folder: Path) -> None:
    """Write the rows that pass to `output`, and drop the others with their reasons. `folder`: for temporary files."""
    judged = _judge(files, plan, folder)
    verdicts, number = iter(judged.verdicts), 0
    for row in files.rows(output.drop_unreadable):
        verdict = next(verdicts)
        found: tuple[str, str] | None
        if verdict == _PASSED:
            found = judged.reason(number)
            number += 1
        else:
            found = _verdict(row, plan)
        if found is None:
            output.keep(row.cells)
        else:
            output.drop(row, *found)


_PASSED, _FAILED = 0, 1


def _verdict(row: DataRow, plan: CleaningPlan) -> tuple[str, str] | None:
    """Return why a row is dropped by itself; None where it is not."""
    try:
        return first_finding(plan.parts(row), plan.limits, plan.rules)
    except DataError as error:
        return NO_TEXT, error.message


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """What was found about the rows that pass all rules, in order."""

    verdicts: bytearray
    """Of every row, in order: _PASSED or _FAILED."""
    places: _Places
    evaluation: _Places | None
    equal: Array
    """(n,) int64: the first row with the same text."""
    leaked: Array
    """(n,) int64: the row of an evaluation file with the same or a near question, -1 for none."""
    leaked_at: Array
    """(n,) float64: how similar that question is."""
    near: Array
    """(n,) int64: the first row of the group of near duplicates."""
    near_at: Array

    def reason(self, number: int) -> tuple[str, str] | None:
        """Return why the row is dropped; None for a row that stays."""
        if self.equal[number] != number:
            return DUPLICATE, f"the same as {self.places.of(int(self.equal[number]))}"
        if self.leaked[number] >= 0 and self.evaluation is not None:
            where = self.evaluation.of(int(self.leaked[number]))
            if self.leaked_at[number] >= 1:
                return LEAKED, f"has the question of {where}"
            return NEAR_LEAKED, f"its question is near that of {where}, similarity {self.leaked_at[number]:.2f}"
        if self.near[number] != number:
            where = self.places.of(int(self.near[number]))
            return NEAR_DUPLICATE, f"in one group with {where}, similarity to it {self.near_at[number]:.2f}"
        return None


def _judge(files: RowFiles, plan: CleaningPlan, folder: Path) -> _Judged:
    places, evaluation, verdicts = _Places(names=[], files=array("I"), lines=array("I")), None, bytearray()
    keys, questions = array("Q"), array("Q")
    with ExitStack() as stack:
        near = stack.enter_context(NearDuplicates(plan.near, folder)) if plan.near else None
        asked = stack.enter_context(NearDuplicates(plan.near, folder)) if plan.near and plan.against else None
        if plan.against is not None:
            # Evaluation rows come first, so that they are the first of their groups.
            evaluation = _Places(names=[], files=array("I"), lines=array("I"))
            for row in plan.against:
                evaluation.add(row)
                _add_question(plan.parts(row), questions, asked)
        for row in files:
            found = _verdict(row, plan)
            verdicts.append(_PASSED if found is None else _FAILED)
            if found is not None:
                continue
            places.add(row)
            parts = plan.parts(row)
            text = normalised(part_of(parts, plan.key))
            keys.append(text_key(text))
            if near is not None:
                near.add(text)
            if plan.against is not None:
                _add_question(parts, questions, asked)
        equal = _first_of_key(keys)
        leaked, leaked_at = _leaks(questions, asked, len(keys))
        first, at = equal, np.ones(len(keys))
        if near is not None:
            # Groups are made of the rows that nothing else has dropped, so that the first of each stays.
            first, at = near.groups((equal == np.arange(len(keys))) & (leaked < 0))
    return _Judged(
        verdicts=verdicts,
        places=places,
        evaluation=evaluation,
        equal=equal,
        leaked=leaked,
        leaked_at=leaked_at,
        near=first,
        near_at=at,
    )


def _add_question(parts: RowParts, keys: array[int], asked: NearDuplicates | None) -> None:
    text = normalised(parts.question or parts.answer)
    keys.append(text_key(text))
    if asked is not None:
        asked.add(text)


def _first_of_key(keys: array[int]) -> Array:
    """Return the first row with the same key, (n,) int64."""
    _, first, inverse = np.unique(np.frombuffer(keys, np.uint64), return_index=True, return_inverse=True)
    return np.asarray(first[inverse])


def _leaks(questions: array[int], asked: NearDuplicates | None, rows: int) -> tuple[Array, Array]:
    """Return (row of an evaluation file, similarity of its question) for each row; -1 and 0 where there is none."""
    known = len(questions) - rows
    if known <= 0:
        return np.full(rows, -1), np.zeros(rows)
    first = _first_of_key(questions)[known:]
    found, at = np.where(first < known, first, -1), (first < known).astype(np.float64)
    if asked is not None:
        near, similarity = (values[known:] for values in asked.groups())
        also = (found < 0) & (near < known) & (similarity >= asked.threshold)
        found, at = np.where(also, near, found), np.where(also, np.minimum(similarity, 0.999), at)
    return found, at
