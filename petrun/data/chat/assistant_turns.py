"""Find an assistant's turn in the text that a chat template renders.

A turn begins where the prompt of generation ends, and ends with its end-of-turn token. In templates that render turn by turn, the
messages before the turn with the generation prompt, and those up to and with the turn, are both prefixes of the full text. Other
templates render a turn differently once others follow it (Qwen3, DeepSeek-R1, QwQ leave out earlier thoughts), or end the generation
prompt with text that a history does not contain ("<think>"). Then a message's content is replaced by a marker that occurs nowhere else:
the text before and after the marker gives the position of the content. Contents are never searched for: any turn may hold the same words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from petrun.data.chat.messages import Message

Render = Callable[[Sequence[Message], bool], str | None]
"""(messages, with generation prompt) -> text; None where the template refuses them."""

_MARKER = "PetrunTurnMarker7f3a91"
_OPEN_TAG = re.compile(r"<[^<>\n]*\Z")
_REST_OF_TAG = re.compile(r"[^<>\n]*>")


class TurnFinder:
    """Finds the turns of one rendered conversation.

    Inputs: `text`, the result of `render(messages, generation_prompt)`; `ends`, the tokenizer's special tokens as text.
    """

    def __init__(
        self,
        render: Render,
        text: str,
        messages: Sequence[Message],
        *,
        generation_prompt: bool,
        ends: Sequence[str],
    ) -> None:
        self._render = render
        self._text = text
        self._messages = messages
        self._generation_prompt = generation_prompt
        self._ends = tuple(ends)

    def span(self, turn: int) -> tuple[int, int] | None:
        """Return (start, end) of the turn in the text, or None where it cannot be found."""
        before = self._render(self._messages[:turn], True)
        after = self._render(self._messages[: turn + 1], False)
        if before and after and self._text.startswith(after) and after.startswith(before) and len(before) < len(after):
            return len(before), len(after)
        return self._marked_span(turn, before)

    def _marked_span(self, turn: int, before: str | None) -> tuple[int, int] | None:
        message = self._messages[turn]
        around = self._around(self._messages, turn, _spoken(message), self._generation_prompt)
        if around is None:
            return None
        start = self._start(turn, around[0], before)
        end = self._end(turn, around[1])
        if start is None or not start < end:
            return None
        sure = self._text.startswith(around[0]) and self._text.endswith(around[1])
        if not sure and (_certain_words(message) not in self._text[start:end] or end > self._begin_of(turn + 1)):
            return None
        return start, end

    def _begin_of(self, index: int) -> int:
        """Return the last position at which the message's content can begin; after the last message, the end of the text."""
        if index >= len(self._messages):
            return len(self._text)
        around = self._around(self._messages, index, marked_content(self._messages[index]), self._generation_prompt)
        return 0 if around is None else _same(self._text, around[0])

    def _start(self, turn: int, lead: str, before: str | None) -> int | None:
        """Return where the turn begins: the end of the prompt's common text between the last message of known position before the turn, and
        the turn's content. `lead`: the text before that content where it is a marker; `before`: the rendered prompt."""
        for earlier in range(turn - 1, -1, -1):
            marked = marked_late(self._messages[earlier])
            whole = self._around(self._messages, earlier, marked, self._generation_prompt)
            prompt = self._around(self._messages[:turn], earlier, marked, True)
            if whole is None or prompt is None or not self._text.endswith(whole[1]):
                continue
            begin = len(self._text) - len(whole[1])
            if begin > _same(self._text, lead):
                return None
            # A tag that is open here may be open in an earlier message: only the text after that is compared.
            limit = begin + common_start(self._text[begin:], lead[begin:])
            return begin + common_start(self._text[begin:limit], prompt[1])
        if before and self._text.startswith(before) and lead.startswith(before):
            return len(before)
        return len(lead) if self._text.startswith(lead) else None

    def _end(self, turn: int, rest: str) -> int:
        """Return where the turn ends. `rest`: the text after the turn's content where it is a marker."""
        message = self._messages[turn]
        marked = _spoken(message)
        if message.get("tool_calls"):
            named = self._around(self._messages, turn, marked_late(message), self._generation_prompt)
            if named is not None and self._text.endswith(named[1]):
                marked, rest = marked_late(message), named[1]
        end = len(self._text) - _common_end(self._text, rest)
        alone = self._around(self._messages[: turn + 1], turn, marked, False)
        if alone is not None:
            return end + common_start(self._text[end:], alone[1])
        behind = self._text[end:].lstrip()
        closing = next((token for token in self._ends if behind.startswith(token)), "")
        return len(self._text) - len(behind) + len(closing) if closing else end

    def _around(
        self, messages: Sequence[Message], index: int, marked: Message, generation_prompt: bool
    ) -> tuple[str, str] | None:
        """Return the text before and after the marker in the message at `index`; None where it is not rendered exactly once."""
        text = self._render([*messages[:index], marked, *messages[index + 1 :]], generation_prompt)
        if text is None or text.count(_MARKER) != 1:
            return None
        before, _, after = text.partition(_MARKER)
        return before, after

    def is_rendered(self, index: int, marked: Message) -> bool:
        """Return whether the template writes the marker in this form of the message at `index`."""
        text = self._render([*self._messages[:index], marked, *self._messages[index + 1 :]], self._generation_prompt)
        return text is None or _MARKER in text

    def is_in_prompt(self, index: int, marked: Message) -> bool:
        """Return whether the prompt of generation holds the marker: some templates write the system text only before a last question."""
        last = max((i for i, message in enumerate(self._messages) if message["role"] == "user"), default=-1)
        text = self._render([*self._messages[:index], marked, *self._messages[index + 1 : last + 1]], True)
        return index <= last and text is not None and _MARKER in text


def _certain_words(message: Message) -> str:
    """Return words that every template writes in the turn: the name of its last call, else its content without thoughts."""
    calls = message.get("tool_calls")
    if calls:
        return str((calls[-1].get("function") or calls[-1])["name"])
    return str(message.get("content") or "").rpartition("</think>")[2].strip()


def marked_content(message: Message) -> Message:
    return {**message, "content": _MARKER}


def marked_thoughts(message: Message) -> Message:
    """Return the message with the marker as the thoughts in its content."""
    said = str(message["content"]).rpartition("</think>")[2]
    return {**message, "content": f"<think>\n{_MARKER}\n</think>{said}"}


def _spoken(message: Message) -> Message:
    """Return the message with the marker as its only content: its tool calls and thoughts are part of the turn."""
    return {"role": message["role"], "content": _MARKER}


def marked_late(message: Message) -> Message:
    """Return the message with a marker as late as possible: the name of its last tool call, else its content."""
    calls = message.get("tool_calls")
    if not calls:
        return marked_content(message)
    *others, last = calls
    inner = last.get("function")
    named = (
        {**last, "function": {**inner, "name": _MARKER}} if isinstance(inner, Mapping) else {**last, "name": _MARKER}
    )
    return {**message, "tool_calls": [*others, named]}


def common_start(text: str, other: str) -> int:
    """Count the characters that both begin with; a tag such as <think> counts only in full."""
    if text.startswith(other):
        return len(other)
    same = _same(text, other)
    opened = _OPEN_TAG.search(text[:same])
    return opened.start() if opened and same < len(text) else same


def _common_end(text: str, other: str) -> int:
    """Count the characters that both end with; a tag such as <|end|> counts only in full."""
    if text.endswith(other):
        return len(other)
    begin = len(text) - _same(text[::-1], other[::-1])
    rest = _REST_OF_TAG.match(text, begin) if _OPEN_TAG.search(text[:begin]) else None
    return len(text) - (rest.end() if rest else begin)


def _same(text: str, other: str) -> int:
    """Count the characters that both begin with."""
    return next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
