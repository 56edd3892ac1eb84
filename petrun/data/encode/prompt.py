"""Encode one prompt or conversation to token ids, as a row of a file is encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from petrun.data.chat.assistant_mask import ChatRenderer
from petrun.data.chat.messages import Message, as_messages, read_conversation, read_messages
from petrun.data.encode.instruct import prompt_text
from petrun.data.encode.segments import EncodeSettings, TextSegment, join_segments, tokenise_segments
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.errors import DataError
from petrun.typing import JsonObject

_NO_LIMIT = 1 << 30


def prompt_ids(
    prompt: str | Sequence[Message],
    tokenizer: Tokenizer,
    template: Template,
    where: str = "the prompt",
    cells: Mapping[str, object] | None = None,
    source: str = "prompt",
    is_source: bool = False,
) -> list[int]:
    """Return the tokens before the answer. A text is the user's message under a chat template, and the column `source` otherwise.

    A conversation under another template is a row as well: its last message is the column `source`, its system message the column
    `system`, and the turns before it `history`; templates that do not read these refuse them.

    `is_source`: of an encoder-decoder, whose source the prompt is; see source_target.py.

    Inputs: `cells`, further cells of a row: system, history, tools, enable_thinking, chat_template_kwargs.
    Raises DataError: no messages, a conversation that is not such a row, a template that reads other columns or does not read one of
    the cells, no tokens.
    """
    settings = EncodeSettings(tokenizer=tokenizer, limit=_NO_LIMIT, template=template, generation=True)
    beside = dict(cells or {})
    if template.is_chat and is_source:
        raise DataError(
            f"{where}: the template {template.name} marks the turns of a conversation, and an encoder-decoder reads a source",
            hint="Give --template plain.",
        )
    if template.is_chat:
        messages = as_messages(prompt, None) if isinstance(prompt, str) else prompt
        row = read_conversation({**beside, "messages": messages}, where)
        renderer = ChatRenderer(template, tokenizer.specials, tokenizer.special_texts)
        segments, _ = renderer.prompt(row.messages, where, row.values)
    else:
        if not isinstance(prompt, str):
            prompt, said = _as_row(read_messages(prompt, where), template, where)
            beside |= said
        values = {"prompt": "", "instruction": "", "input": "", "system": "", **beside, source: prompt}
        segments = [TextSegment(prompt_text(template, values, beside, where), False)]
    if is_source:
        ids = tokenizer.encode(segments[0].text)
    else:
        ids, _ = join_segments(segments, tokenise_segments([segments], tokenizer)[0], settings, chat=template.is_chat)
    if not ids:
        raise DataError(f"{where}: is empty", hint="Give a text to continue.")
    return ids


def _as_row(messages: Sequence[Message], template: Template, where: str) -> tuple[str, JsonObject]:
    """Return (the user's last message, the cells `system` and `history`). Raises DataError for a conversation that is not such a row."""
    opening = 1 if messages[0]["role"] in ("system", "developer") else 0
    turns = messages[opening:]
    usual = [("user", "assistant")[i % 2] for i in range(len(turns))]
    if (
        len(turns) % 2 == 0
        or [turn["role"] for turn in turns] != usual
        or any(turn.get("tool_calls") for turn in turns)
    ):
        raise DataError(
            f"{where}: is a conversation, and the template {template.name} does not read `messages`: it takes what a user says, with the "
            "user's and the assistant's earlier turns by turns before it",
            hint="Give a text, or a chat template: --template chatml.",
        )
    texts = [str(turn.get("content") or "") for turn in turns]
    cells: JsonObject = {"system": str(messages[0].get("content") or "")} if opening else {}
    if len(texts) > 1:
        cells["history"] = [list(pair) for pair in zip(texts[:-1:2], texts[1::2], strict=True)]
    return texts[-1], cells
