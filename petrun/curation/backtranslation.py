"""Make questions for texts, by a delta that was trained to ask. What is done is kept, so that a pass that was interrupted goes on.

Source: Li et al., "Self-Alignment with Instruction Backtranslation", ICLR 2024, section 2.1: nucleus sampling, temperature 0.7, p 0.9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from petrun.curation.parts import PartReader
from petrun.curation.reading import DataRow
from petrun.errors import DataError
from petrun.inference.generation.session import Decoding, PromptRequest, Session
from petrun.inference.interrupted_pass import resumed

NO_TEXT, TOO_LONG, EMPTY, UNFINISHED = "no text", "too long", "no question", "question not finished"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The question that was made for a row's text, or why there is none."""

    row: DataRow
    text: str = ""
    question: str = ""
    reason: str = ""
    problem: str = ""


def ask(
    session: Session, rows: Iterator[DataRow], decoding: Decoding, done: Path, key: Sequence[object]
) -> Iterator[Asked]:
    """Yield a question for the text of each row, in order.

    A row's text is its answer, or its only text. A drawn question depends on the seed and on the row's number alone. `done`: file of what
    is done; the caller removes it. `key`: what the questions depend on, by which an interrupted pass is recognised.
    """
    reader = PartReader()

    def answers(group: Mapping[int, Asked]) -> dict[int, tuple[str, str]]:
        requests = {
            number: PromptRequest(each.text, session.current, decoding, number, where=each.row.where)
            for number, each in group.items()
            if not each.reason
        }
        order = list(requests)
        found = {}
        for chunk in session.chunks(list(requests.values())):
            if chunk.answer is not None:
                found[order[chunk.index]] = (chunk.answer.text.strip(), chunk.answer.finish)
        return {number: found[number] for number in order}

    texts = (_text(session, number, row, reader, decoding) for number, row in enumerate(rows))
    for each, answer in resumed(texts, done, key, answers):
        yield each if answer is None else _asked(each, *answer)


def _text(session: Session, number: int, row: DataRow, reader: PartReader, decoding: Decoding) -> Asked:
    """Return a row's text, or why it has none that can be asked for."""
    try:
        parts = reader(row)
    except DataError as error:
        return Asked(row=row, reason=NO_TEXT, problem=error.message)
    text = (parts.answer or parts.question).strip()
    if not text:
        return Asked(row=row, reason=NO_TEXT, problem="the text is empty")
    try:
        session.check(PromptRequest(text, session.current, decoding, number, where=row.where))
    except DataError as error:
        return Asked(row=row, reason=TOO_LONG, problem=error.message)
    return Asked(row=row, text=text)


def _asked(each: Asked, question: str, finish: str) -> Asked:
    if not question:
        return Asked(row=each.row, reason=EMPTY, problem="the delta asked nothing")
    if finish != "stop":
        return Asked(row=each.row, reason=UNFINISHED, problem=f"cut at --max-new-tokens: {question[:60]!r}")
    return Asked(row=each.row, text=each.text, question=question)
