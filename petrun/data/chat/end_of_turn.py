"""Find the text with which a chat template closes a turn: it ends an answer, as the base's end-of-sequence tokens do.

Bases whose end-of-sequence token is `<|endoftext|>` or `</s>` are often trained with templates that end turns with `<|im_end|>` or
`<|end|>`: the model learns the template's text, so generation has to stop at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from petrun.data.templates.template import Template, run_template, strip_marks
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.errors import DataError

_ANSWER = "Xanswer7Xanswer7X"
"""Stands for the assistant's words: no template holds or changes it."""
_SHORTEST = 3
"""Least length of a mark: a shorter one, such as a full stop, may be part of an answer."""


@dataclass(frozen=True, kw_only=True)
class EndOfTurn:
    """Tokens and texts that end an answer. Neither belongs to the answer."""

    ids: frozenset[int] = frozenset()
    texts: tuple[str, ...] = ()
    """Marks that the tokenizer writes as several tokens."""

    def __or__(self, other: EndOfTurn) -> EndOfTurn:
        return EndOfTurn(ids=self.ids | other.ids, texts=tuple(dict.fromkeys((*self.texts, *other.texts))))

    @property
    def window(self) -> int:
        """The number of last tokens that hold any complete mark at their end: a token has at least one byte."""
        return max((len(text.encode()) for text in self.texts), default=0) + 1

    def cut(self, text: str) -> str:
        """Return the text before the first mark."""
        starts = [start for start in (text.find(mark) for mark in self.texts) if start >= 0]
        return text[: min(starts)] if starts else text


NO_END_OF_TURN = EndOfTurn()


def end_of_turn_mark(template: Template | None, tokenizer: Tokenizer | None) -> str:
    """Return the first mark that the template writes after the assistant's words; '' where it writes none."""
    if template is None or tokenizer is None or not template.is_chat:
        return ""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _ANSWER}]
    for messages in (turns, [{"role": "system", "content": "a"}, *turns]):
        values = {**tokenizer.specials, "tools": None, "documents": None, "messages": messages}
        try:
            text = strip_marks(run_template(template, {**values, "add_generation_prompt": False}, "", ""))
        except DataError:
            # Some templates require a system message.
            continue
        return _first_mark(text.rpartition(_ANSWER)[2].strip(), tokenizer) if _ANSWER in text else ""
    return ""


def _first_mark(tail: str, tokenizer: Tokenizer) -> str:
    ids = tokenizer.encode(tail, special=False) if tail else []
    if ids and ids[0] in tokenizer.special_ids:
        return tokenizer.token(ids[0])
    # Later words may end the conversation, not the turn.
    return tail.split()[0] if tail else ""


def end_of_turn_of_mark(mark: str | None, tokenizer: Tokenizer | None) -> EndOfTurn:
    """Return the mark as the tokenizer's token for it, else as text."""
    if not mark or tokenizer is None or len(mark) < _SHORTEST:
        return NO_END_OF_TURN
    ids: Sequence[int] = tokenizer.encode(mark, special=False)
    return EndOfTurn(ids=frozenset(ids)) if len(ids) == 1 else EndOfTurn(texts=(mark,))


def find_end_of_turn(template: Template | None, tokenizer: Tokenizer | None) -> EndOfTurn:
    """Return the end of turn of a chat template; NO_END_OF_TURN for other templates, and for one that writes nothing after a turn."""
    return end_of_turn_of_mark(end_of_turn_mark(template, tokenizer), tokenizer)
