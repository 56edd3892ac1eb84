"""Render a conversation by its chat template to text in segments; those of the assistant's turns are supervised.

The chat template renders the complete conversation. Every assistant turn is supervised, from the end of the generation prompt to the end
of the turn, its end-of-turn token included; a turn of weight 0 is not. The template's {% generation %} marks enclose a turn;
without such marks petrun/data/chat/assistant_turns.py finds it. Tokens get their labels from the segments in
petrun/data/encode/segments.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from petrun.data.chat.assistant_turns import TurnFinder, common_start, marked_content, marked_late, marked_thoughts
from petrun.data.chat.messages import RENDERED, WEIGHT, Message
from petrun.data.encode.segments import TextSegment
from petrun.data.templates.template import CLOSE, OPEN, Template, keys_read, run_template, strip_marks, variables
from petrun.errors import DataError, did_you_mean


class ChatRenderer:
    """One chat template with the tokenizer's special tokens."""

    def __init__(self, template: Template, specials: Mapping[str, str], ends: Sequence[str]) -> None:
        self.template = template
        self._specials = dict(specials)
        self._ends = tuple(ends)
        self.unused_keys: dict[str, None] = {}
        """Keys of messages that the template does not read, and thoughts and words that it leaves out, as they are met."""
        self.note: str | None = None
        """A note on text that prompts hold and training rows do not; "" for no such text, None before the first row."""
        self._known: set[tuple[str, bool]] = set()
        """(role, whether first) of messages that the template was seen to write."""

    def segments(
        self, messages: Sequence[Message], where: str, extra: Mapping[str, object] | None = None
    ) -> list[TextSegment]:
        """Render the conversation, split where supervision begins and ends.

        Raises: DataError when there is no assistant turn, or it cannot be found in the text.
        """
        if not any(message["role"] == "assistant" and message.get(WEIGHT) != 0 for message in messages):
            muted = any(message["role"] == "assistant" for message in messages)
            what = "every message of the assistant has weight 0" if muted else "no message of the assistant"
            raise DataError(f"{where}: {what}, so nothing to learn", hint="Such rows can be predicted.")
        if self.note is None:
            self.note = self._prompt_note(messages, where, extra)
        return self._cut(messages, where, extra, generation_prompt=False)

    def _prompt_note(self, messages: Sequence[Message], where: str, extra: Mapping[str, object] | None) -> str:
        """Return a note where the prompt of generation differs from the text before the last answer in training; "" where it does not."""
        turn = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        try:
            prompt = strip_marks(self._render(messages[:turn], where, extra, generation_prompt=True))
        except DataError:
            # There is no such prompt, for example before an answer that comes first.
            return ""
        whole = strip_marks(self._render(messages, where, extra, generation_prompt=False))
        alone = prompt[common_start(whole, prompt) :]
        if not alone:
            return ""
        shown = repr(alone[:40]) + ("..." if len(alone) > 40 else "")
        return (
            f"{where}: where an answer is asked for, the chat template writes {shown}, which training rows do not hold"
        )

    def prompt(
        self, messages: Sequence[Message], where: str, extra: Mapping[str, object] | None = None
    ) -> tuple[list[TextSegment], str | None]:
        """Return (text up to the assistant's answer, its last turn as the reference or None).

        The history is split as in training, so that it is tokenised the same way.
        """
        if messages[-1]["role"] != "assistant":
            return self._cut(messages, where, extra, generation_prompt=True), None
        if len(messages) == 1:
            raise DataError(f"{where}: no message to answer")
        return self._cut(messages[:-1], where, extra, generation_prompt=True), self.reference(messages, where, extra)

    def text(self, messages: Sequence[Message], where: str) -> str:
        """Return a complete conversation as text. Raises DataError."""
        return strip_marks(self._render(messages, where, None, generation_prompt=False))

    def reference(self, messages: Sequence[Message], where: str, extra: Mapping[str, object] | None = None) -> str:
        """Return the content of the assistant's last message; for a tool call, the text that the template writes for it."""
        turn = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        if not messages[turn].get("tool_calls"):
            return str(messages[turn].get("content") or "")
        text = strip_marks(self._render(messages, where, extra, generation_prompt=False))
        start, end = self._span(text, messages, turn, where, extra, generation_prompt=False)
        said = text[start:end].strip()
        closing = max((token for token in self._ends if said.endswith(token)), key=len, default="")
        return said.removesuffix(closing).strip()

    def _render(
        self, messages: Sequence[Message], where: str, extra: Mapping[str, object] | None, generation_prompt: bool
    ) -> str:
        """Return the template's output, marks included."""
        values = {**self._specials, "tools": None, "documents": None, **(extra or {})}
        shown = [{key: value for key, value in message.items() if key != WEIGHT} for message in messages]
        values |= {"messages": shown, "add_generation_prompt": generation_prompt}
        hint = f"Roles of the row: {', '.join(str(message['role']) for message in messages)}"
        try:
            return run_template(self.template, values, where, hint)
        except DataError:
            # Templates written for transformers 4 ask whether the content of a tool call `is none`.
            if all("content" in message for message in shown):
                raise
            values["messages"] = [{"content": None, **message} for message in shown]
            return run_template(self.template, values, where, hint)

    def _cut(
        self, messages: Sequence[Message], where: str, extra: Mapping[str, object] | None, generation_prompt: bool
    ) -> list[TextSegment]:
        self._check_read(messages, where, extra)
        marked = self._render(messages, where, extra, generation_prompt)
        text = strip_marks(marked)
        self._check_rendered(text, messages, where, extra, generation_prompt)
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        found: dict[int, tuple[int, int]] = {}
        for turn in turns:
            if OPEN not in marked or messages[turn].get(WEIGHT) == 0:
                found[turn] = self._span(text, messages, turn, where, extra, generation_prompt)
        spans = _marked_spans(marked) if OPEN in marked else list(found.values())
        if any(after[0] < before[1] for before, after in pairwise(spans)):
            raise DataError(
                f"{where}: the template {self.template.name} renders the assistant's turns in another order"
            )
        muted = [span for turn, span in found.items() if messages[turn].get(WEIGHT) == 0]
        learned = [span for span in spans if not any(span[0] < end and start < span[1] for start, end in muted)]
        return _trim(_segments(text, learned), self._ends)

    def _span(
        self,
        text: str,
        messages: Sequence[Message],
        turn: int,
        where: str,
        extra: Mapping[str, object] | None,
        generation_prompt: bool,
    ) -> tuple[int, int]:
        """Return (start, end) of the turn in the text. Raises DataError where it cannot be found."""
        found = self._finder(text, messages, where, extra, generation_prompt).span(turn)
        if found is None:
            raise DataError(
                f"{where}, message {turn + 1}: the assistant's turn cannot be found in what the template "
                f"{self.template.name} renders",
                hint="Mark it in the template: {% generation %}...{% endgeneration %}",
            )
        return found

    def _finder(
        self,
        text: str,
        messages: Sequence[Message],
        where: str,
        extra: Mapping[str, object] | None,
        generation_prompt: bool,
    ) -> TurnFinder:
        def render(part: Sequence[Message], with_prompt: bool) -> str | None:
            # Templates may refuse a part of a conversation although they accept all of it.
            try:
                return strip_marks(self._render(part, where, extra, with_prompt))
            except DataError:
                return None

        return TurnFinder(render, text, messages, generation_prompt=generation_prompt, ends=self._ends)

    def _check_read(self, messages: Sequence[Message], where: str, extra: Mapping[str, object] | None) -> None:
        """Raises DataError where the template does not read a cell that changes the row's meaning."""
        read, keys = variables(self.template.text), keys_read(self.template.text)
        lost = [name for name in extra or {} if name not in read]
        if lost:
            raise DataError(
                f"{where}: the template {self.template.name} does not read {', '.join(lost)}",
                hint=did_you_mean(lost[0], sorted(read - {"messages"}))
                + f" Use another template, or leave it out: --set 'data.ignore=[{lost[0]}]'.",
            )
        for message in messages:
            unused = [key for key in message if key not in keys and key not in RENDERED]
            if "thinking" in keys and "reasoning_content" in unused:
                unused.remove("reasoning_content")
            self.unused_keys.update(dict.fromkeys(unused))

    def _check_rendered(
        self,
        text: str,
        messages: Sequence[Message],
        where: str,
        extra: Mapping[str, object] | None,
        generation_prompt: bool,
    ) -> None:
        """Raises DataError for a tool call, or a message of another role, that the template leaves out."""
        finder = self._finder(text, messages, where, extra, generation_prompt)
        last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
        for index, message in enumerate(messages):
            role, content = str(message["role"]), str(message.get("content") or "").strip()
            here = f"{where}, message {index + 1}: the template {self.template.name}"
            if message.get("tool_calls") and not finder.is_rendered(index, marked_late(message)):
                raise DataError(
                    f"{here} does not write its tool calls",
                    hint="Give a template that renders them all: --template FILE.",
                )
            if role == "assistant":
                self._note_cut(finder, index, message, last=index == last)
                continue
            seen = (role, index == 0)
            if not content or (content in text and (role == "user" or seen in self._known)):
                continue
            if finder.is_rendered(index, marked_content(message)):
                self._known.add(seen)
            elif finder.is_in_prompt(index, marked_content(message)):
                self.unused_keys[f"content (of the role {role}, beside an answer)"] = None
            else:
                raise DataError(
                    f"{here} leaves out this message of the role {role}",
                    hint="Give another template, or the message another role.",
                )

    def _note_cut(self, finder: TurnFinder, index: int, message: Message, *, last: bool) -> None:
        """Note thoughts that the template removes from the last turn, and words that it leaves out beside a tool call."""
        thoughts, _, said = str(message.get("content") or "").rpartition("</think>")
        if (
            last
            and thoughts.rpartition("<think>")[2].strip()
            and not finder.is_rendered(index, marked_thoughts(message))
        ):
            self.unused_keys["content (thoughts in <think>)"] = None
        if message.get("tool_calls") and said.strip() and not finder.is_rendered(index, marked_content(message)):
            self.unused_keys["content (beside tool_calls)"] = None


def _segments(text: str, spans: Sequence[tuple[int, int]]) -> list[TextSegment]:
    segments, at = [], 0
    for start, end in spans:
        segments += [TextSegment(text[at:start], False), TextSegment(text[start:end], True)]
        at = end
    segments.append(TextSegment(text[at:], False))
    return [segment for segment in segments if segment.text]


def _trim(segments: list[TextSegment], ends: tuple[str, ...]) -> list[TextSegment]:
    """Remove white space after a special token at the end of a turn: it belongs to the template, not to the turn."""
    out: list[TextSegment] = []
    for segment in segments:
        kept = segment.text.rstrip()
        parts = [segment]
        if segment.supervised and kept != segment.text and kept.endswith(ends):
            parts = [TextSegment(kept, True), TextSegment(segment.text[len(kept) :], False)]
        for part in parts:
            if out and out[-1].supervised == part.supervised:
                out[-1] = TextSegment(out[-1].text + part.text, part.supervised)
            else:
                out.append(part)
    return out


def _marked_spans(marked: str) -> list[tuple[int, int]]:
    """Return the spans between the marks, as positions in the text without the marks."""
    spans, length, start = [], 0, 0
    rest = marked
    while rest:
        opened, closed = rest.find(OPEN), rest.find(CLOSE)
        here = min((found for found in (opened, closed) if found >= 0), default=-1)
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
