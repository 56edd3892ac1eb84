"""One prompt or conversation -> token ids, the way a row of a file becomes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from petrun.data.chat import ChatRenderer, Piece
from petrun.data.encode import Encoding, joined, prompt_text, tokenise
from petrun.data.messages import Message, as_messages, read_conversation
from petrun.data.template import Template
from petrun.data.tokenize import Tokenizer
from petrun.errors import DataError

_NO_LIMIT = 1 << 30


def prompt_ids(
    prompt: str | Sequence[Message],
    tokenizer: Tokenizer,
    template: Template,
    where: str = "the prompt",
    cells: Mapping[str, Any] | None = None,
) -> list[int]:
    """Tokens up to where the answer begins. A text is what the user says under a chat template, and the column `prompt` otherwise.

    Inputs: `cells`, what a row of a file may hold beside its prompt: system, history, tools, enable_thinking, chat_template_kwargs.
    Raises DataError: no messages, a conversation without a chat template, a template that asks for other columns or does not read
    one of the cells, no tokens.
    """
    how = Encoding(tokenizer, _NO_LIMIT, template, generation=True)
    beside = dict(cells or {})
    if template.is_chat:
        messages = as_messages(prompt, None) if isinstance(prompt, str) else prompt
        row = read_conversation({**beside, "messages": messages}, where)
        renderer = ChatRenderer(template, tokenizer.specials, tokenizer.special_texts)
        pieces, _ = renderer.prompt(row.messages, where, row.values)
    elif isinstance(prompt, str):
        values = {"instruction": "", "input": "", "system": "", **beside, "prompt": prompt}
        pieces = [Piece(prompt_text(template, values, beside, where), False)]
    else:
        raise DataError(
            f"{where}: is a conversation, and the template {template.name} does not read `messages`",
            hint="Give a text, or a chat template: --template chatml.",
        )
    ids, _ = joined(pieces, tokenise([pieces], tokenizer, None)[0], how, chat=template.is_chat)
    if not ids:
        raise DataError(f"{where}: is empty", hint="Give a text to go on from.")
    return ids
