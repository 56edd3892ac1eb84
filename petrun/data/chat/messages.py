"""Convert conversations from their usual forms to the messages that a chat template reads, for files, prompts and requests alike.

    messages        {role, content} objects, or ShareGPT's {from, value}; the list may be JSON text
    content         text, or a list of parts of type text, which are joined
    tool_calls      objects, or JSON text; their arguments likewise. function_call (one call, OpenAI's older form) too
    weight          0: the assistant's message is not learned (OpenAI's; also train: false)
    tools           a list of JSON schemas; the list and each of them may be JSON text
    history         [[asked, answered], ...] before the row's own question (Alpaca's)

Keys whose value is null are left out at every depth: parquet files give every object the keys of all others, filled with null.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from petrun.data.templates.template import RESERVED
from petrun.errors import DataError
from petrun.typing import JsonObject

Message: TypeAlias = Mapping[str, Any]
"""One message: role, content and other keys that a chat template may read."""

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
_OTHER_ROLES = {
    "human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "bing": "assistant", "bard": "assistant", "observation": "tool", "tool_response": "tool", "function_response": "tool",
    "function_call": "assistant", "tool_call": "assistant",
}  # fmt: skip
_SYSTEM = ("system", "developer")
_CALLING = ("function_call", "tool_call")
"""Roles of ShareGPT whose value is a tool call as JSON text."""
_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Keys that hold a message's thoughts; templates read the first, those of gpt-oss the second."""
_TRAIN = ("train", "training")
WEIGHT = "weight"
RENDERED = frozenset({"role", "content", WEIGHT, *_REASONING[1:]})
"""Keys of a message that need not occur in a template; thoughts under other keys are copies of `reasoning_content`."""
VALUES = "chat_template_kwargs"
SWITCH = "enable_thinking"
EXTRA_CELLS = ("system", "history", "tools", SWITCH, VALUES)
"""Cells that a row may hold beside its conversation or its prompt."""
_KEY_ORDER = (
    "role", "content", "id", "type", "function", "name", "description", "enum", "parameters", "arguments", "items", "properties",
    "required",
)  # fmt: skip
"""The order in OpenAI's reference and in the output of transformers' get_json_schema."""
_SURROGATE = re.compile("[\ud800-\udfff]")


class Arguments(JsonObject):
    """Arguments of a tool call. Where a template writes them as text, they are JSON, not Python's spelling of a dict.

    Some templates write `arguments | tojson`, others `'...' + arguments`, for files in which they are JSON text.
    """

    def __str__(self) -> str:
        return json.dumps(self, ensure_ascii=False)

    def __add__(self, other: str) -> str:
        return str(self) + other

    def __radd__(self, other: str) -> str:
        return other + str(self)


@dataclass(frozen=True)
class Conversation:
    messages: list[Message]
    values: JsonObject = field(default_factory=dict)
    """Variables of the chat template beside the messages: tools, enable_thinking, ..."""


def read_conversation(cells: Mapping[str, object], where: str) -> Conversation:
    """Read a row whose cells have their canonical names: messages, or lists of messages as prompt and completion; and EXTRA_CELLS.

    Raises: DataError naming the row, and the message or cell that cannot be read.
    """
    if cells.get("messages") is not None:
        messages = read_messages(cells["messages"], where)
    else:
        # Only the completion is learned, not the prompt.
        messages = [_unlearned(message) for message in _part(cells.get("prompt"), "prompt", "user", where)]
        if cells.get("completion") is not None:
            messages += _part(cells["completion"], "completion", "assistant", where)
    opening = 1 if messages and messages[0]["role"] in _SYSTEM else 0
    earlier = [as_messages(*pair) for pair in read_history(cells.get("history"), where)]
    messages[opening:opening] = [message for turn in earlier for message in turn]
    return Conversation(_with_system(messages, cells.get("system"), where), read_values(cells, where))


def _part(value: object, name: str, role: str, where: str) -> list[Message]:
    """Read a prompt or a completion: messages, or the text of one."""
    return read_messages(value, where, name) if is_conversation(value) else [{"role": role, "content": str(value)}]


def is_conversation(value: object) -> bool:
    """Return whether a cell holds messages: a list of objects, or such a list as JSON text."""
    found = _parsed(value)
    return isinstance(found, list | tuple) and bool(found) and isinstance(found[0], Mapping)


def as_messages(prompt: str, completion: str | None) -> list[Message]:
    """Write a prompt and its completion as a conversation, for chat templates over plain rows."""
    asked: list[Message] = [{"role": "user", "content": prompt}]
    return asked if completion is None else [*asked, {"role": "assistant", "content": completion}]


def read_messages(value: object, where: str, name: str = "messages") -> list[Message]:
    """Read a list of messages. Raises DataError naming the row and the message that is not {role, content}."""
    found = _parsed(value)
    if not isinstance(found, list | tuple) or not found:
        raise DataError(
            f"{where}: {name} must be a list of {{role, content}} objects, found {str(value)[:60]!r}",
            hint='Example: [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]',
        )
    return [_message(message, f"{where}, message {number}") for number, message in enumerate(found, 1)]


def read_history(value: object, where: str) -> list[tuple[str, str]]:
    """Read earlier questions and answers. Raises DataError naming the turn that is not a pair of texts."""
    found = _parsed(value)
    if found is None or found == "":
        return []
    if not isinstance(found, list | tuple):
        raise DataError(
            f"{where}: history must be a list of [asked, answered] pairs, found {str(value)[:60]!r}",
            hint='Example: [["Hi", "Hello"], ["How are you?", "Fine."]]',
        )
    for number, pair in enumerate(found, 1):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise DataError(
                f"{where}: history, turn {number}: expected [asked, answered], two texts, found {str(pair)[:60]!r}"
            )
    return [(asked, answered) for asked, answered in found]


def read_tools(value: object, where: str) -> list[JsonObject] | None:
    """Read the tools' schemas; None where there are none. Raises DataError naming the tool that is not a JSON object."""
    found = _parsed(value)
    found = [found] if isinstance(found, Mapping) else found
    if not found:
        return None
    if not isinstance(found, list | tuple):
        raise DataError(
            f"{where}: tools must be a list of JSON schemas, or such a list as JSON text, found {str(value)[:60]!r}"
        )
    tools = []
    for number, item in enumerate(found, 1):
        tool = _parsed(item)
        if not isinstance(tool, Mapping):
            raise DataError(f"{where}: tool {number} must be a JSON object, found {str(item)[:60]!r}")
        tools.append(_schema(tool))
    return tools


def _schema(tool: Mapping[str, object]) -> JsonObject:
    """Return the tool with its parameters as an object: files keep them as JSON text where they differ from tool to tool."""
    found: JsonObject = without_nulls(tool)
    inner = found.get("function")
    if isinstance(inner, Mapping):
        return {**found, "function": _schema(inner)}
    parameters = _parsed(found.get("parameters"))
    if isinstance(parameters, Mapping):
        found["parameters"] = without_nulls(parameters)
    return found


def read_values(cells: Mapping[str, object], where: str) -> JsonObject:
    """Read the variables of the chat template that a row sets. Raises DataError."""
    given = _parsed(cells.get(VALUES))
    if given is not None and not isinstance(given, Mapping):
        raise DataError(
            f"{where}: {VALUES} must be an object, found {str(given)[:60]!r}", hint=f'Example: {{"{SWITCH}": false}}'
        )
    values: JsonObject = without_nulls(given or {})
    taken = RESERVED & set(values)
    if taken:
        raise DataError(
            f"{where}: {VALUES} cannot set {', '.join(sorted(taken))}", hint="These are columns of the row."
        )
    switch = cells.get(SWITCH)
    # Cells of a CSV file are texts.
    switch = {"true": True, "false": False, "": None}.get(switch.lower(), switch) if isinstance(switch, str) else switch
    if switch is not None:
        if not isinstance(switch, bool):
            raise DataError(f"{where}: {SWITCH} must be true or false, found {str(switch)[:40]!r}")
        values[SWITCH] = switch
    tools = read_tools(cells.get("tools"), where)
    return values | ({"tools": tools} if tools else {})


def without_nulls(value: object) -> Any:
    """Return the value without keys that hold null, at every depth."""
    if isinstance(value, Mapping):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(inner) for inner in value]
    return value


def usual_order(value: object) -> Any:
    """Restore the usual order of the keys of tools and calls, where they are sorted by name.

    Arrow sorts the keys of objects whose schema it infers. Templates write schemas and calls key by key, so the order matters.
    """
    if isinstance(value, list | tuple):
        return [usual_order(inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    keys = list(value)
    if keys == sorted(keys):
        keys.sort(key=lambda key: _KEY_ORDER.index(key) if key in _KEY_ORDER else len(_KEY_ORDER))
    found = {}
    for key in keys:
        inner = value[key]
        if key == "properties" and isinstance(inner, Mapping):
            # The author chose these keys, so their usual order is not known.
            found[key] = {name: usual_order(schema) for name, schema in inner.items()}
        else:
            found[key] = inner if key == "arguments" else usual_order(inner)
    return found


def _parsed(value: object) -> Any:
    """Return the value of JSON text of a list, an object or null; anything else unchanged."""
    if not isinstance(value, str) or not value.strip() or (value.strip()[0] not in "[{" and value.strip() != "null"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _message(raw: object, where: str) -> Message:
    if not isinstance(raw, Mapping):
        raise DataError(f"{where}: expected an object with role and content, found {str(raw)[:60]!r}")
    message: JsonObject = without_nulls(raw)
    name = message.pop("from", None) if "role" not in message else message["role"]
    if name is None:
        raise DataError(f"{where}: no `role` (found {', '.join(map(str, raw)) or 'nothing'})")
    named = str(name).lower()
    role = _OTHER_ROLES.get(named, named)
    if role not in ROLES:
        raise DataError(
            f"{where}: unknown role {name!r}", hint=f"Roles: {', '.join(ROLES)}; ShareGPT's {', '.join(_OTHER_ROLES)}"
        )
    message["role"] = role
    if "content" not in message and "value" in message:
        message["content"] = message.pop("value")
    if named in _CALLING and "tool_calls" not in message:
        message["tool_calls"] = message.pop("content", None)
    if "function_call" in message and "tool_calls" not in message:
        message["tool_calls"] = message.pop("function_call")
    if "tool_calls" in message:
        message["tool_calls"] = _calls(message["tool_calls"], where)
        if not message["tool_calls"]:
            del message["tool_calls"]
    _read_thoughts(message)
    _read_content(message, where)
    _read_weight(message, where)
    return message


def _read_thoughts(message: JsonObject) -> None:
    thoughts = next((message[key] for key in _REASONING if isinstance(message.get(key), str)), None)
    if thoughts is not None:
        message["reasoning_content"] = thoughts
        message.setdefault("thinking", thoughts)


def _read_content(message: JsonObject, where: str) -> None:
    content = message.get("content")
    if isinstance(content, list | tuple):
        content = message["content"] = _joined_parts(content, where)
    if content is None and (message.get("tool_calls") or "reasoning_content" in message):
        return
    if not isinstance(content, str):
        raise DataError(
            f"{where}: `content` must be text, found {'nothing' if content is None else type(content).__name__}"
        )
    if not content.isascii() and _SURROGATE.search(content):
        raise DataError(
            f"{where}: `content` holds half of a surrogate pair, which is no character",
            hint="An emoji was cut in two when the file was written: write it again from the original text.",
        )


def _joined_parts(parts: Sequence[object], where: str) -> str:
    texts = []
    for part in parts:
        named = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        text = part.get("text") if isinstance(part, Mapping) and named == "text" else part
        if not isinstance(text, str):
            found = "one without text" if named == "text" else f"one of type {named}"
            raise DataError(
                f"{where}: `content` must be text or parts of type text, found {found}",
                hint='Example: [{"type": "text", "text": "Hi"}]',
            )
        texts.append(text)
    return "".join(texts)


def _calls(value: object, where: str) -> list[JsonObject]:
    found = _parsed(value)
    found = [found] if isinstance(found, Mapping) else found
    if not isinstance(found, list | tuple):
        raise DataError(
            f"{where}: tool calls must be a list of objects with name and arguments, found {str(value)[:60]!r}"
        )
    return [_call(_parsed(call), f"{where}, tool call {number}") for number, call in enumerate(found, 1)]


def _call(call: Any, where: str) -> JsonObject:
    inner = _parsed(call.get("function")) if isinstance(call, Mapping) else None
    if isinstance(inner, Mapping):
        return {**call, "function": _call(inner, where)}
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        raise DataError(f"{where}: expected an object with name and arguments, found {str(call)[:60]!r}")
    # Some services write an empty text for a call without arguments.
    arguments = _parsed(call.get("arguments")) or {}
    if not isinstance(arguments, Mapping):
        raise DataError(
            f"{where}: arguments must be a JSON object, found {str(arguments)[:60]!r}",
            hint='Example: {"name": "weather", "arguments": {"city": "Rome"}}',
        )
    return {**without_nulls(call), "arguments": Arguments(without_nulls(arguments))}


def _read_weight(message: JsonObject, where: str) -> None:
    """Keep `weight` 0 where the assistant's message is not learned; remove all other forms of it."""
    given = {key: message.pop(key) for key in (WEIGHT, *_TRAIN) if key in message}
    for key, value in given.items():
        if value not in (0, 1) or isinstance(value, str):
            raise DataError(
                f"{where}: {key} must be 0 or 1, found {str(value)[:40]!r}",
                hint="0: this message is not learned. Other weights are not supported.",
            )
        if value and message["role"] != "assistant":
            raise DataError(
                f"{where}: {key} asks to learn a message of the role {message['role']}",
                hint="Only the assistant's messages are learned: leave it out. --set data.loss_on=all learns whole rows.",
            )
    if message["role"] == "assistant" and any(not value for value in given.values()):
        message[WEIGHT] = 0


def _unlearned(message: Message) -> Message:
    return {**message, WEIGHT: 0} if message["role"] == "assistant" else message


def _with_system(messages: list[Message], system: object, where: str) -> list[Message]:
    """Put the text of the row's column `system` before its messages."""
    if system is None or system == "":
        return messages
    if not isinstance(system, str):
        raise DataError(f"{where}: column 'system' is {type(system).__name__}, expected text")
    first = messages[0] if messages else {}
    if first.get("role") not in _SYSTEM:
        return [{"role": "system", "content": system}, *messages]
    if first["content"] != system:
        raise DataError(
            f"{where}: the column 'system' and the first message hold two different system texts",
            hint="Keep one of them; --set 'data.ignore=[system]' leaves the column out.",
        )
    return messages
