"""Conversations -> text, with the assistant's turns marked.

The text is what the chat template renders for the whole conversation. Every assistant turn is supervised, from the end of the
generation prompt to the end of the turn, its end-of-turn token included. Where a turn lies in the text is found by
  1. the template's own {% generation %} marks, where it has them;
  2. else rendering the messages before the turn with the generation prompt, and those up to and with it: both are beginnings of
     the whole text in templates that render turn by turn;
  3. else (templates that render a turn differently once others follow it) looking for the turn's content behind its beginning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from petrun.data.template import CLOSE, OPEN, Template, run_template, strip_marks
from petrun.errors import DataError

Message = Mapping[str, Any]
_ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")


@dataclass(frozen=True)
class Piece:
    """A stretch of rendered text; neighbours differ in `supervised`."""

    text: str
    supervised: bool


def check_messages(messages: Any, where: str) -> list[Message]:
    """Raises: DataError naming the row and message that is no {role, content}."""
    if not isinstance(messages, list | tuple) or not messages:
        raise DataError(f"{where}: messages must be a list of {{role, content}} objects, found {str(messages)[:60]!r}")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            raise DataError(
                f"{where}, message {number}: expected an object with role and content, found {str(message)[:60]!r}"
            )
        if "role" not in message:
            hint = (
                "This looks like ShareGPT: rename `from` to `role` and `value` to `content`."
                if "from" in message
                else ""
            )
            raise DataError(
                f"{where}, message {number}: no `role` (found {', '.join(map(str, message)) or 'nothing'})", hint=hint
            )
        if message["role"] not in _ROLES:
            raise DataError(
                f"{where}, message {number}: unknown role {message['role']!r}", hint=f"Roles: {', '.join(_ROLES)}"
            )
        content = message.get("content")
        if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
            raise DataError(f"{where}, message {number}: `content` must be text, found {type(content).__name__}")
    return list(messages)


class ChatRenderer:
    """One chat template with the tokenizer's special tokens."""

    def __init__(self, template: Template, specials: Mapping[str, str], ends: Sequence[str]) -> None:
        self.template = template
        self._specials = dict(specials)
        self._ends = tuple(ends)

    def pieces(self, messages: Sequence[Message], where: str, extra: Mapping[str, Any] | None = None) -> list[Piece]:
        """The whole conversation, cut where supervision begins and ends.

        Raises: DataError when there is no assistant turn, or its place in the text cannot be found.
        """
        if not any(message["role"] == "assistant" for message in messages):
            raise DataError(
                f"{where}: no message of the assistant, so nothing to learn", hint="Such rows can be predicted."
            )
        return self._cut(messages, where, extra, generation_prompt=False)

    def prompt(
        self, messages: Sequence[Message], where: str, extra: Mapping[str, Any] | None = None
    ) -> tuple[list[Piece], str | None]:
        """(text up to where the assistant is to speak, its last turn as the reference or None).

        The history is cut as in training, so that it is tokenised the same way.
        """
        reference = None
        if messages[-1]["role"] == "assistant":
            reference = str(messages[-1].get("content") or "")
            messages = messages[:-1]
        if not messages:
            raise DataError(f"{where}: no message to answer")
        return self._cut(messages, where, extra, generation_prompt=True), reference

    def _render(
        self, messages: Sequence[Message], where: str, extra: Mapping[str, Any] | None, generation_prompt: bool
    ) -> str:
        """The template's output, marks included."""
        values = {**self._specials, "tools": None, "documents": None, **(extra or {})}
        values |= {"messages": list(messages), "add_generation_prompt": generation_prompt}
        roles = ", ".join(str(message["role"]) for message in messages)
        return run_template(self.template, values, where, f"Roles of the row: {roles}")

    def _cut(
        self, messages: Sequence[Message], where: str, extra: Mapping[str, Any] | None, generation_prompt: bool
    ) -> list[Piece]:
        marked = self._render(messages, where, extra, generation_prompt)
        text = strip_marks(marked)
        spans: list[tuple[int, int]] = _marked_spans(marked)
        if OPEN not in marked:
            for turn in (i for i, message in enumerate(messages) if message["role"] == "assistant"):
                spans.append(self._span(text, messages, turn, spans[-1][1] if spans else 0, where, extra))
        return _trim(_pieces(text, spans), self._ends)

    def _span(
        self,
        text: str,
        messages: Sequence[Message],
        turn: int,
        cursor: int,
        where: str,
        extra: Mapping[str, Any] | None,
    ) -> tuple[int, int]:
        """Where the turn lies in the text, from `cursor` on."""
        content = str(messages[turn].get("content") or "").strip()
        before = self._try(messages[:turn], where, extra, True)
        after = self._try(messages[: turn + 1], where, extra, False)
        start = len(before) if before and text.startswith(before) and len(before) >= cursor else -1
        if start < 0 and content:
            start = text.find(content, cursor)
        end = len(after) if after and text.startswith(after) else -1
        if end <= start and start >= 0 and content:
            found = text.find(content, start)
            # What closes the turn: the text behind its content where it is the last turn.
            tail = after.rpartition(content)[2] if after and content in after else ""
            end = found + len(content) if found >= 0 else -1
            if found >= 0 and text.startswith(tail, end):
                end += len(tail)
        if start < 0 or end <= start:
            raise DataError(
                f"{where}, message {turn + 1}: the assistant's turn cannot be found in what the template "
                f"{self.template.name} renders",
                hint="Mark it in the template: {% generation %}...{% endgeneration %}",
            )
        return start, end

    def _try(
        self, messages: Sequence[Message], where: str, extra: Mapping[str, Any] | None, generation_prompt: bool
    ) -> str | None:
        """The rendered text, or None: templates may refuse a part of a conversation although they take the whole."""
        try:
            return strip_marks(self._render(messages, where, extra, generation_prompt))
        except DataError:
            return None


def as_messages(prompt: str, completion: str | None, system: str) -> list[Message]:
    """A prompt and its completion as a conversation, for chat templates over plain rows."""
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    if completion is not None:
        messages.append({"role": "assistant", "content": completion})
    return messages


def _pieces(text: str, spans: Sequence[tuple[int, int]]) -> list[Piece]:
    pieces, at = [], 0
    for start, end in spans:
        pieces += [Piece(text[at:start], False), Piece(text[start:end], True)]
        at = end
    pieces.append(Piece(text[at:], False))
    return [piece for piece in pieces if piece.text]


def _trim(pieces: list[Piece], ends: tuple[str, ...]) -> list[Piece]:
    """White space that follows a special token at the end of a turn belongs to the template, not to the turn."""
    out: list[Piece] = []
    for piece in pieces:
        kept = piece.text.rstrip()
        parts = [piece]
        if piece.supervised and kept != piece.text and kept.endswith(ends):
            parts = [Piece(kept, True), Piece(piece.text[len(kept) :], False)]
        for part in parts:
            if out and out[-1].supervised == part.supervised:
                out[-1] = Piece(out[-1].text + part.text, part.supervised)
            else:
                out.append(part)
    return out


def _marked_spans(marked: str) -> list[tuple[int, int]]:
    """Places between the marks, counted in the text without them."""
    spans, length, start = [], 0, 0
    rest = marked
    while rest:
        opened, closed = rest.find(OPEN), rest.find(CLOSE)
        here = min((place for place in (opened, closed) if place >= 0), default=-1)
        if here < 0:
            break
        length += here
        if here == opened:
            start = length
            rest = rest[here + len(OPEN) :]
        else:
            spans.append((start, length))
            rest = rest[here + len(CLOSE) :]
    return [span for span in spans if span[1] > span[0]]
