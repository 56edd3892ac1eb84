"""Pretraining documents: events told and recorded in many forms, and questions about them.

An order is never written as `key: value` lines, the record's keys `customer`, `item`, `quantity`, `price`, `city`, `due` never name a value
of an order, and the task's instruction never occurs: that is what fine-tuning teaches.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from assets import words
from assets.events import EVENTS, Event, Field, order

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)

Pairs = list[tuple[str, str]]


def chat(user: str, answer: str) -> str:
    """One exchange in the chat template's own form."""
    return f"{TURN_START}user\n{user}{TURN_END}\n{TURN_START}assistant\n{answer}{TURN_END}\n"


def lines_of(pairs: Pairs) -> str:
    return "\n".join(f"{key}: {value}" for key, value in pairs)


def bars_of(pairs: Pairs) -> str:
    return " | ".join(f"{key} : {value}" for key, value in pairs)


def settings_of(pairs: Pairs) -> str:
    return "\n".join(f"{key} = {value}" for key, value in pairs)


def list_of(pairs: Pairs) -> str:
    return "\n".join(f"- {value} ({key})" for key, value in pairs)


FORMS: dict[str, Callable[[Pairs], str]] = {
    "lines": lines_of,
    "bars": bars_of,
    "settings": settings_of,
    "a list": list_of,
}


def _form(rng: random.Random, event: Event) -> str:
    return rng.choice([form for form in FORMS if not (form == "lines" and event.kind == "order")])


def _some(rng: random.Random, event: Event, least: int = 2) -> list[Field]:
    """All fields of the event or some, in any order."""
    return rng.sample(event.fields, rng.randint(least, len(event.fields)))


def _pairs(rng: random.Random, event: Event) -> Pairs:
    return [(rng.choice(field.names), field.value) for field in _some(rng, event)]


def _answer(field: Field) -> str:
    # Not the bare value: at the start of a line it would lack its space, and so be other tokens than in the sentence.
    return f"That is {field.value}."


def _event(rng: random.Random) -> Event:
    return order(rng) if rng.random() < 0.35 else rng.choice(EVENTS)(rng)


def recorded(rng: random.Random) -> str:
    """Sentences, then their record."""
    event = _event(rng)
    return f"{event.text}\n{FORMS[_form(rng, event)](_pairs(rng, event))}\n"


def told(rng: random.Random) -> str:
    """The record first."""
    event = _event(rng)
    return f"{FORMS[_form(rng, event)](_pairs(rng, event))}\n{event.text}\n"


def asked_record(rng: random.Random) -> str:
    """A chat: the keys are named in the request, so the answer follows from it."""
    event = _event(rng)
    form, pairs = _form(rng, event), _pairs(rng, event)
    keys = ", ".join(key for key, _ in pairs)
    return chat(f"Write {keys} as {form}.\n{event.text}", FORMS[form](pairs))


def asked_questions(rng: random.Random) -> str:
    """A chat about one event, up to four questions."""
    event = _event(rng)
    first, *others = _some(rng, event, 1)[:4]
    return chat(f"{event.text}\n{first.question}", _answer(first)) + "".join(
        chat(field.question, _answer(field)) for field in others
    )


def spelling(rng: random.Random) -> str:
    """Prices in two spellings."""
    drawn = [words.money(rng) for _ in range(rng.randint(3, 8))]
    return "\n".join(f"{money.written} -> {money.coded}" for money in drawn) + "\n"


_WRITERS: tuple[tuple[Callable[[random.Random], str], int], ...] = (
    (recorded, 30),
    (asked_record, 35),
    (asked_questions, 25),
    (told, 7),
    (spelling, 3),
)


def document(seed: int, index: int) -> str:
    """Pretraining document `index`: depends on (seed, index) alone. Ends without the end-of-text token."""
    rng = random.Random(f"{seed}/document/{index}")
    writer = rng.choices([w for w, _ in _WRITERS], [weight for _, weight in _WRITERS])[0]
    return writer(rng)
