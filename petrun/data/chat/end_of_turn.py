"""Where an answer ends, beside the base's own end-of-sequence tokens: at the mark with which a chat template closes a turn.

Bases whose end-of-sequence token is `<|endoftext|>` or `</s>` are often trained with templates that end turns with `<|im_end|>` or
`<|end|>`: what the model learns is the template's mark, and generation has to know it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from petrun.data.templates.template import Template, run_template, strip_marks
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.errors import DataError

_ANSWER = "Xanswer7Xanswer7X"
"""Stands for what the assistant says: no template holds it, nor changes it."""
_SHORTEST = 3
"""A shorter mark, such as a full stop, may be part of an answer."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What ends an answer. Neither the tokens nor the texts belong to it."""

    ids: frozenset[int] = frozenset()
    texts: tuple[str, ...] = ()
    """Marks for which the tokenizer has no token of their own: several tokens spell them."""

    def __or__(self, other: Ending) -> Ending:
        return Ending(ids=self.ids | other.ids, texts=tuple(dict.fromkeys((*self.texts, *other.texts))))

    @property
    def window(self) -> int:
        """So many of the last tokens hold every mark that ends with one of them: a token has one byte at least."""
        return max((len(text.encode()) for text in self.texts), default=0) + 1

    def cut(self, text: str) -> str:
        """The text before the first mark."""
        places = [place for place in (text.find(mark) for mark in self.texts) if place >= 0]
        return text[: min(places)] if places else text


NO_ENDING = Ending()


def turn_mark(template: Template | None, tokenizer: Tokenizer | None) -> str:
    """What the template writes behind the assistant's words, white space and later marks left off; '' where that is nothing."""
    if template is None or tokenizer is None or not template.is_chat:
        return ""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _ANSWER}]
    for messages in (turns, [{"role": "system", "content": "a"}, *turns]):
        values = {**tokenizer.specials, "tools": None, "documents": None, "messages": messages}
        try:
            text = strip_marks(run_template(template, {**values, "add_generation_prompt": False}, "", ""))
        except DataError:
            # Some ask for a system message.
            continue
        return _first_mark(text.rpartition(_ANSWER)[2].strip(), tokenizer) if _ANSWER in text else ""
    return ""


def _first_mark(tail: str, tokenizer: Tokenizer) -> str:
    ids = tokenizer.encode(tail, special=False) if tail else []
    if ids and ids[0] in tokenizer.special_ids:
        return tokenizer.token(ids[0])
    # Of several words the first: behind it may stand what ends the conversation.
    return tail.split()[0] if tail else ""


def ending_of(mark: str | None, tokenizer: Tokenizer | None) -> Ending:
    """The mark as the token that the tokenizer has for it, else as text."""
    if not mark or tokenizer is None or len(mark) < _SHORTEST:
        return NO_ENDING
    ids: Sequence[int] = tokenizer.encode(mark, special=False)
    return Ending(ids=frozenset(ids)) if len(ids) == 1 else Ending(texts=(mark,))


def find_ending(template: Template | None, tokenizer: Tokenizer | None) -> Ending:
    """How answers to prompts of this template end; NO_ENDING for one that is no chat template, or writes nothing behind a turn."""
    return ending_of(turn_mark(template, tokenizer), tokenizer)
