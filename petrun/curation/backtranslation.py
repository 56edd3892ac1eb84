"""Make questions for texts, by a delta that was trained to ask. What is done is kept, so that a pass that was interrupted goes on.

Source: Li et al., "Self-Alignment with Instruction Backtranslation", ICLR 2024, section 2.1: nucleus sampling, temperature 0.7, p 0.9.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from petrun.curation.parts import PartReader
from petrun.curation.reading import DataRow
from petrun.errors import DataError
from petrun.inference.generation.session import Decoding, PromptRequest, Session
from petrun.inference.interrupted_pass import read_done

_GROUP_ROWS = 64
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
    fingerprint = hashlib.sha256(repr(tuple(key)).encode()).hexdigest()
    known = _by_number(read_done(done, fingerprint))
    reader = PartReader()
    with done.open("a", encoding="utf-8") as file:
        if not known:
            file.write(json.dumps({"fingerprint": fingerprint}) + "\n")
        numbered = enumerate(rows)
        while group := list(islice(numbered, _GROUP_ROWS)):
            found = dict(_texts(session, group, reader, decoding))
            requests = {
                number: PromptRequest(each.text, None, decoding, number, where=each.row.where)
                for number, each in found.items()
                if not each.reason and number not in known
            }
            order = list(requests)
            for chunk in session.chunks([_with_delta(session, requests[number]) for number in order]):
                if chunk.answer is not None:
                    known[order[chunk.index]] = (chunk.answer.text.strip(), chunk.answer.finish)
            file.writelines(json.dumps([number, *known[number]], ensure_ascii=False) + "\n" for number in order)
            file.flush()
            yield from (_asked(each, known.get(number, ("", ""))) for number, each in found.items())


def _with_delta(session: Session, request: PromptRequest) -> PromptRequest:
    return PromptRequest(request.prompt, session.current, request.how, request.row, where=request.where)


def _texts(
    session: Session, group: Sequence[tuple[int, DataRow]], reader: PartReader, decoding: Decoding
) -> Iterator[tuple[int, Asked]]:
    for number, row in group:
        try:
            parts = reader(row)
        except DataError as error:
            yield number, Asked(row=row, reason=NO_TEXT, problem=error.message)
            continue
        text = (parts.answer or parts.question).strip()
        if not text:
            yield number, Asked(row=row, reason=NO_TEXT, problem="the text is empty")
            continue
        try:
            session.check(PromptRequest(text, session.current, decoding, number, where=row.where))
        except DataError as error:
            yield number, Asked(row=row, reason=TOO_LONG, problem=error.message)
            continue
        yield number, Asked(row=row, text=text)


def _asked(each: Asked, answer: tuple[str, str]) -> Asked:
    if each.reason:
        return each
    question, finish = answer
    if not question:
        return Asked(row=each.row, reason=EMPTY, problem="the delta asked nothing")
    if finish != "stop":
        return Asked(row=each.row, reason=UNFINISHED, problem=f"cut at --max-new-tokens: {question[:60]!r}")
    return Asked(row=each.row, text=each.text, question=question)


def _by_number(entries: list[tuple[int, str, str]]) -> dict[int, tuple[str, str]]:
    return {int(number): (str(text), str(finish)) for number, text, finish in entries}
