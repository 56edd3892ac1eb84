"""Rate the answers of rows from 1 to 5 by a model: by the number that it writes, or by the expected value over its
probabilities of the five.

Source: Li et al., "Self-Alignment with Instruction Backtranslation", ICLR 2024, section 2.2: five levels, and the number in the last line
behind "Score:". The expected value is for models too small to write a sound judgement; it is the same on every call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from petrun.curation.difficulty import TOO_LONG
from petrun.curation.parts import NO_PARTS, PartReader
from petrun.curation.reading import DataRow
from petrun.errors import ConfigError, DataError
from petrun.inference.generation.choices import choice_tokens
from petrun.inference.generation.session import Decoding, PromptRequest, Session
from petrun.inference.interrupted_pass import resumed
from petrun.typing import JsonObject

EXPECTED, GENERATED = "expected", "generated"
LEVELS = ("1", "2", "3", "4", "5")
_MARK = "Score:"
_BEGIN = f"{_MARK} "
_NUMBER = re.compile(r"Score:\s*([0-9]+(?:\.[0-9]+)?)")
_PLACES = ("{question}", "{answer}")
UNREAD = "no score in the answer"
_LEAST_SHARE = 0.5

_PROMPT = """\
Here are a user's request and an answer to it. Judge how well the answer would serve as an example of what an assistant should reply.

1: The answer does not do what was asked: it breaks off, talks about something else, advertises, or speaks for its writer alone.
2: The answer does a part of it, and leaves what matters most open or says it wrongly.
3: The answer helps, but is not written for this user: a comment, an excerpt or a report from somebody else's point of view.
4: The answer is written for this user, complete and in order; it could be shorter, clearer or better arranged.
5: The answer is what an expert would write for this user: correct, complete, to the point, with no word too many.

Request:
{question}

Answer:
{answer}

"""
_ENDINGS = {
    EXPECTED: f"Reply with '{_MARK}' and the number alone.\n",
    GENERATED: f"Give your reasons in a few sentences. Then write '{_MARK}' and the number in a line of its own, the last one.\n",
}


def rating_prompt(path: str | None, by: str) -> str:
    """Return the text that asks for a rating: petrun's own, or that of a file. Raises ConfigError for one without both places."""
    if path is None:
        return _PROMPT + _ENDINGS[by]
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompt {path}: cannot be read: {error}") from error
    missing = [place for place in _PLACES if place not in text]
    if missing:
        raise ConfigError(
            f"--prompt {path}: has no {' and no '.join(missing)}, where the texts of a row go",
            hint=f"Example: {{question}}, a line, {{answer}}, a line, and: Reply with '{_MARK}' and a number from 1 to 5.",
        )
    return text


def read_rating(answer: str) -> float | None:
    """Return the number behind the last `Score:` of an answer; None where there is none from 1 to 5."""
    found = _NUMBER.findall(answer)
    number = float(found[-1]) if found else 0.0
    return number if 1 <= number <= len(LEVELS) else None


@dataclass(frozen=True, kw_only=True)
class RatedRow:
    """A row, the prompt that asks for its rating, or why there is none, and what was found."""

    row: DataRow
    prompt: str = ""
    found: JsonObject
    """`score`, and what it was made of; without one `reason`."""


@dataclass(frozen=True, kw_only=True)
class Rater:
    """Rates rows with a session's base and delta."""

    session: Session
    by: str
    prompt: str
    """With {question} and {answer}."""
    decoding: Decoding
    """Of generated ratings."""
    samples: int
    """Answers for each row, whose mean is the rating."""
    reader: PartReader

    def __call__(self, rows: Iterable[DataRow], done: Path, key: Sequence[object]) -> Iterator[RatedRow]:
        """Yield the rating of each row, in order. `done`, `key`: as `resumed`."""
        compute = self._expected if self.by == EXPECTED else self._generated
        prepared = (self._prepare(number, row) for number, row in enumerate(rows))
        for each, found in resumed(prepared, done, key, compute):
            yield each if found is None else RatedRow(row=each.row, found=found)

    def _prepare(self, number: int, row: DataRow) -> RatedRow:
        try:
            parts = self.reader(row)
        except DataError as error:
            return RatedRow(row=row, found=_without(NO_PARTS, error.message))
        question, answer = parts.question.strip(), parts.answer.strip()
        if not question or not answer:
            return RatedRow(row=row, found=_without(NO_PARTS))
        # In one pass: a row may hold the name of the other place.
        texts = dict(zip(_PLACES, (question, answer), strict=True))
        prompt = re.sub("|".join(map(re.escape, _PLACES)), lambda place: texts[place[0]], self.prompt)
        try:
            tokens = self.session.check(self._request(number, prompt, row.where))
        except DataError as error:
            return RatedRow(row=row, found=_without(TOO_LONG, error.message))
        longest = self.session.loaded.max_positions
        if self.by == EXPECTED and longest is not None and tokens + self._begin_tokens >= longest:
            return RatedRow(row=row, found=_without(TOO_LONG, f"{tokens} tokens, and '{_BEGIN}' behind them"))
        return RatedRow(row=row, prompt=prompt, found={})

    @cached_property
    def _begin_tokens(self) -> int:
        return len(choice_tokens(self.session.tokenizer, _BEGIN, LEVELS)[0])

    def _request(self, number: int, prompt: str, where: str) -> PromptRequest:
        return PromptRequest(prompt, self.session.current, self.decoding, number, where=where)

    def _expected(self, group: Mapping[int, RatedRow]) -> dict[int, JsonObject]:
        asked = {number: each for number, each in group.items() if each.prompt}
        requests = [self._request(number, each.prompt, each.row.where) for number, each in asked.items()]
        logs = self.session.choice_log_probs(requests, _BEGIN, LEVELS)
        return {number: expected_rating(row) for number, row in zip(asked, logs, strict=True)}

    def _generated(self, group: Mapping[int, RatedRow]) -> dict[int, JsonObject]:
        asked = [
            (number, self._request(number * self.samples + sample, each.prompt, each.row.where))
            for number, each in group.items()
            if each.prompt
            for sample in range(self.samples)
        ]
        texts: dict[int, list[str]] = {number: [] for number, _ in asked}
        answers = {}
        for chunk in self.session.chunks([request for _, request in asked]):
            if chunk.answer is not None:
                answers[chunk.index] = chunk.answer.text
        for i, (number, _) in enumerate(asked):
            texts[number].append(answers[i])
        return {number: generated_rating(found) for number, found in texts.items()}


def expected_rating(logs: Sequence[float]) -> JsonObject:
    """Return the expected value of 1 to 5 under softmax of their log-probabilities, the probabilities, and the share that all five had."""
    values = np.asarray(logs, np.float64)
    shares = np.exp(values - values.max())
    shares /= shares.sum()
    return {
        "score": float(shares @ np.arange(1, len(LEVELS) + 1)),
        "probabilities": shares.tolist(),
        "of_all_tokens": float(np.exp(values).sum()),
    }


def doubt(rows: Sequence[JsonObject]) -> str | None:
    """Return a note where a model, of most rows, would not answer with one of the digits; None elsewhere."""
    shares = [row["of_all_tokens"] for row in rows if "of_all_tokens" in row]
    middle = float(np.median(shares)) if shares else 1.0
    if middle >= _LEAST_SHARE:
        return None
    return (
        f"note: the five digits together have {middle:.1%} of the model's probability (median): it would answer something else, and these "
        "ratings say little; --prompt and --delta change that"
    )


def generated_rating(answers: Sequence[str]) -> JsonObject:
    """Return the mean of the numbers in the answers, and each of them."""
    ratings = [read_rating(answer) for answer in answers]
    read = [rating for rating in ratings if rating is not None]
    if not read:
        return _without(UNREAD, answers[-1].strip()[-80:]) | {"ratings": ratings}
    return {"score": float(np.mean(read)), "ratings": ratings}


def _without(reason: str, problem: str = "") -> JsonObject:
    return {"score": None, "reason": reason, **({"problem": problem} if problem else {})}
