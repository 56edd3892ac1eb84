"""Convert rows between the forms in which tools keep instructions: messages, ShareGPT, Alpaca, prompt and completion.

    messages   {"messages": [{"role", "content"}, ...]}, tools beside them
    sharegpt   {"conversations": [{"from", "value"}, ...]}, system and tools beside them
    alpaca     {"instruction", "input", "output"}, system and history where the row has them
    prompt     {"prompt", "completion"}, system and history where the row has them

A form that cannot hold all of a row is an error naming what it lacks: nothing is left out silently. Columns that are no part of the
conversation are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from petrun.curation.parts import PartReader, answer_text, named_cells
from petrun.curation.reading import DataRow
from petrun.data.chat.messages import VALUES, WEIGHT, Conversation, Message, as_messages, read_conversation
from petrun.data.rows.columns import RowSchema
from petrun.errors import DataError
from petrun.typing import JsonObject

_SHAREGPT_ROLES = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}


class FormConverter:
    """Converts rows to one form."""

    def __init__(self, form: str, parts: PartReader | None = None) -> None:
        """`form`: one of `forms()`; `parts`: names the columns of question and answer, where the user does."""
        self._form = form
        self._write = _FORMS[form]
        self._parts = parts or PartReader()

    def __call__(self, row: DataRow) -> JsonObject:
        """Return the row's cells in this form. Raises DataError naming the row that has no conversation, or that does not fit."""
        schema = self._parts.schema(row)
        if not schema.kind.templated:
            raise DataError(
                f"{row.where}: holds {schema.kind.name}, not a question and an answer",
                hint="--to is for rows of instructions; without it the columns stay, and the file's format changes.",
            )
        _refuse_further_answers(row, schema, f"--to {self._form}")
        found = self._write(conversation_of(row, self._parts), row.where)
        # Empty cells are what CSV and MindRecord fill up with.
        taken = {*schema.columns.values(), *found}
        return found | {name: cell for name, cell in row.cells.items() if name not in taken and cell not in (None, "")}


def swapped(row: DataRow, parts: PartReader) -> JsonObject:
    """Return {"prompt": the answer, "completion": the question}, which trains a model to ask: the first half of back-translation.

    Other columns are kept. Raises DataError for a row that is not one question and one answer.
    """
    schema = parts.schema(row)
    if not schema.kind.templated:
        raise DataError(f"{row.where}: holds {schema.kind.name}, not a question and an answer")
    _refuse_further_answers(row, schema, "a swapped row")
    system, turns = _turns(conversation_of(row, parts), row.where, "a swapped row")
    if len(turns) > 1 or system:
        raise DataError(f"{row.where}: a swapped row has no form for {'a system text' if system else 'several turns'}")
    taken = {*schema.columns.values(), "prompt", "completion"}
    others = {name: cell for name, cell in row.cells.items() if name not in taken and cell not in (None, "")}
    return {"prompt": turns[0][1], "completion": turns[0][0], **others}


def _refuse_further_answers(row: DataRow, schema: RowSchema, form: str) -> None:
    """Raises DataError for a row with a rejected answer, or with several references: a conversation has one answer."""
    several = (
        schema.has("target") and isinstance(cell := row.cells.get(schema.columns["target"]), list) and len(cell) > 1
    )
    if schema.has("rejected") or several:
        what = "a rejected answer" if schema.has("rejected") else "several references of one prompt"
        raise DataError(
            f"{row.where}: {form} has no form for {what}",
            hint="Without --to and --swap the columns stay, and the file's format changes.",
        )


def forms() -> list[str]:
    """Return the names of the forms."""
    return list(_FORMS)


def conversation_of(row: DataRow, parts: PartReader) -> Conversation:
    """Read a row of any kind with a prompt as a conversation. Raises DataError."""
    schema = parts.schema(row)
    cells = named_cells(row, schema)
    if schema.kind.conversation:
        return read_conversation(cells, row.where)
    completion = answer_text(row, schema) if schema.has("target") else None
    cells["messages"] = as_messages("\n\n".join(_asked(cells, row)), completion)
    return read_conversation({name: cell for name, cell in cells.items() if name not in ("input",)}, row.where)


def _asked(cells: JsonObject, row: DataRow) -> list[str]:
    found = [cells.get("source"), cells.get("input")]
    for text in found:
        if text is not None and not isinstance(text, str):
            raise DataError(f"{row.where}: the question is {type(text).__name__}, expected text")
    return [text for text in found if text]


def _messages(row: Conversation, where: str) -> JsonObject:
    return {"messages": [_plain(message) for message in row.messages], **_values(row)}


def _values(row: Conversation) -> JsonObject:
    tools = {"tools": row.values["tools"]} if "tools" in row.values else {}
    others = {name: value for name, value in row.values.items() if name != "tools"}
    return tools | ({VALUES: others} if others else {})


def _plain(message: Message) -> JsonObject:
    """Return a message without the copies of its thoughts that readers add for templates."""
    return {name: value for name, value in message.items() if name != "thinking" or "reasoning_content" not in message}


def _sharegpt(row: Conversation, where: str) -> JsonObject:
    turns, beside = [], {}
    for number, message in enumerate(row.messages, 1):
        if message["role"] == "system" and number == 1:
            beside["system"] = message["content"]
            continue
        turns.append(_sharegpt_turn(message, f"{where}, message {number}"))
    values = _values(row)
    if "tools" in values:
        values["tools"] = json.dumps(values["tools"], ensure_ascii=False)
    return {"conversations": turns, **beside, **values}


def _sharegpt_turn(message: Message, where: str) -> JsonObject:
    extra = message.keys() - {"role", "content", "tool_calls", WEIGHT}
    if message["role"] not in _SHAREGPT_ROLES or extra:
        what = ", ".join(sorted(extra)) or f"the role {message['role']}"
        raise DataError(f"{where}: ShareGPT has no form for {what}")
    weight = {WEIGHT: message[WEIGHT]} if WEIGHT in message else {}
    if "tool_calls" not in message:
        return {"from": _SHAREGPT_ROLES[message["role"]], "value": message["content"], **weight}
    if message.get("content"):
        raise DataError(f"{where}: ShareGPT has no form for words beside a tool call")
    calls = [call.get("function", call) for call in message["tool_calls"]]
    plain = [{"name": call["name"], "arguments": dict(call["arguments"])} for call in calls]
    value = json.dumps(plain[0] if len(plain) == 1 else plain, ensure_ascii=False)
    return {"from": "function_call", "value": value, **weight}


def _turns(row: Conversation, where: str, form: str) -> tuple[JsonObject, list[Sequence[str]]]:
    """Return (system where there is one, [asked, answered] of every turn). Raises DataError where the conversation is of another shape."""
    if row.values:
        raise DataError(f"{where}: {form} has no form for {', '.join(row.values)}")
    system = {"system": row.messages[0]["content"]} if row.messages[0]["role"] == "system" else {}
    messages = row.messages[len(system) :]
    for number, message in enumerate(messages, 1 + len(system)):
        extra = sorted(message.keys() - {"role", "content"})
        if extra or message["role"] != ("user", "assistant")[(number - 1 - len(system)) % 2]:
            what = f"{extra[0]} of" if extra else f"the role {message['role']} as"
            raise DataError(f"{where}: {form} has no form for {what} message {number}")
    texts = [str(message["content"]) for message in messages]
    if not texts or len(texts) % 2:
        raise DataError(f"{where}: {form} needs an answer after every question")
    return system, [texts[i : i + 2] for i in range(0, len(texts), 2)]


def _alpaca(row: Conversation, where: str) -> JsonObject:
    system, turns = _turns(row, where, "Alpaca")
    history = {"history": [list(turn) for turn in turns[:-1]]} if len(turns) > 1 else {}
    return {"instruction": turns[-1][0], "input": "", "output": turns[-1][1], **system, **history}


def _prompt(row: Conversation, where: str) -> JsonObject:
    system, turns = _turns(row, where, "prompt and completion")
    history = {"history": [list(turn) for turn in turns[:-1]]} if len(turns) > 1 else {}
    return {"prompt": turns[-1][0], "completion": turns[-1][1], **system, **history}


_FORMS: dict[str, Callable[[Conversation, str], JsonObject]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt": _prompt,
}
