"""OpenAI's request bodies -> what is wanted; answers -> OpenAI's objects. No HTTP and no net in here.

Source: https://platform.openai.com/docs/api-reference (chat, completions, models, and the shape of errors). `top_k`,
`repetition_penalty`, `chat_template_kwargs` and `enable_thinking` are not OpenAI's; vLLM and others spell them so.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

from petrun.data.chat.messages import SWITCH, VALUES, read_values
from petrun.errors import DataError

_MOST_STOPS = 4
_SURROGATE = re.compile("[\ud800-\udfff]")
_ROLES = ("system", "developer", "user", "assistant", "tool")
_CARRIED = {"tool_calls": list, "tool_call_id": str, "name": str, "reasoning_content": str}
"""What a message may hold beside role and content: the template gets it as it is."""
_EMPTY = ("refusal", "audio", "function_call", "annotations")
"""What the messages of OpenAI's own answers hold, and nothing here reads: only null or empty."""
_KNOWN = {
    "model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "stop", "seed", "n",
    "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "user", "metadata", "store", "service_tier",
    "safety_identifier", "prompt_cache_key",
}  # fmt: skip
_CHAT = {
    "messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls", "functions",
    "function_call", "response_format", "modalities", "reasoning_effort", "verbosity",
    "chat_template_kwargs", "enable_thinking",
}  # fmt: skip
_TEXT = {"prompt", "suffix", "echo", "best_of"}
_NOTHING: Mapping[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},), "logprobs": (False, 0),
    "top_logprobs": (0,), "tools": ([],), "functions": ([],), "tool_choice": ("none", "auto"), "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "suffix": ("",), "echo": (False,),
}  # fmt: skip
"""Settings that are taken where they ask for nothing; null always is."""


class ApiError(Exception):
    """What a client gets instead of an answer: an HTTP status and OpenAI's error object."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, kind: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "error": {
                "message": _sendable(message),
                "type": kind or ("invalid_request_error" if status < 500 else "server_error"),
                "param": None if param is None else _sendable(param),
                "code": code,
            }
        }


def _sendable(text: str) -> str:
    """What a client sent may hold half of a surrogate pair, which no UTF-8 has."""
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for."""

    most_tokens: int = 1024
    """New tokens."""
    default_tokens: int = 256
    """... where the request names no number."""
    body_bytes: int = 1 << 20


@dataclass(frozen=True, kw_only=True)
class CompletionRequest:
    """One request."""

    model: str
    prompt: str | tuple[Mapping[str, Any], ...]
    """A text, or messages of role and content, with tool calls where they have them."""
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    stream: bool = False
    with_usage: bool = False
    """A stream ends with the counts of tokens."""
    cells: Mapping[str, Any] = field(default_factory=dict)
    """What the request sets of the chat template: enable_thinking, chat_template_kwargs."""
    scored: bool = False
    """Every token of the answer comes with its log probability."""
    id: str = field(default_factory=lambda: secrets.token_hex(12))

    @property
    def chat(self) -> bool:
        return not isinstance(self.prompt, str)


@dataclass(frozen=True, kw_only=True)
class Done:
    """How an answer ended."""

    finish: Literal["stop", "length"]
    tokens: int
    prompt_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
        }


def parse_json(body: bytes) -> dict[str, Any]:
    """The body's object. Raises ApiError."""
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"The body is not valid JSON: {what}") from error
    if not isinstance(found, dict):
        raise ApiError(400, "The body must be a JSON object.")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def read_wanted(body: Mapping[str, Any], limits: Limits, *, chat: bool) -> CompletionRequest:
    """A body of /v1/chat/completions or /v1/completions. Raises ApiError naming the parameter."""
    known = _KNOWN | (_CHAT if chat else _TEXT)
    for name, value in body.items():
        if name not in known:
            raise _wrong(name, f"Unknown parameter: '{name[:64]}'.", "unknown_parameter")
        if value is not None and name in _NOTHING and value not in _NOTHING[name]:
            raise _wrong(name, f"'{name}' is not supported here, other than {_listed(_NOTHING[name])}.", "unsupported")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise _wrong("model", "you must provide a model parameter", "missing_required_parameter")
    stream = _flag(body, "stream")
    options = body.get("stream_options")
    if options is not None and (not stream or not isinstance(options, dict)):
        raise _wrong("stream_options", "'stream_options' is an object, and only allowed when 'stream' is true.")
    seed = _number(body, "seed", None, -(2**63), 2**63 - 1, whole=True)
    return CompletionRequest(
        model=model,
        prompt=_messages(body.get("messages")) if chat else _prompt(body.get("prompt")),
        max_tokens=_max_tokens(body, limits),
        temperature=_number(body, "temperature", 1.0, 0.0, 2.0),
        top_p=_number(body, "top_p", 1.0, 0.0, 1.0, above=True),
        top_k=int(_number(body, "top_k", 0, 0, 2**31, whole=True)),
        repetition_penalty=_number(body, "repetition_penalty", 1.0, 0.0, 10.0, above=True),
        stop=_stop(body.get("stop")),
        seed=secrets.randbits(62) if seed is None else int(seed) % 2**63,
        stream=stream,
        cells=_cells(body) if chat else {},
        with_usage=bool(options and _flag(options, "include_usage")),
        # 0, which is not false: no alternatives, but the chosen tokens' own.
        scored=not chat and body.get("logprobs") is not None and body["logprobs"] is not False,
    )


def _wrong(param: str, message: str, code: str | None = None) -> ApiError:
    return ApiError(400, message, code=code, param=param[:64])


def _listed(values: tuple[Any, ...]) -> str:
    return " or ".join(json.dumps(value) for value in values)


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, f"'{name}' must be a boolean.", "invalid_type")
    return bool(value)


def _number(
    body: Mapping[str, Any],
    name: str,
    default: Any,
    low: float,
    high: float,
    *,
    whole: bool = False,
    above: bool = False,
) -> Any:
    """A number from `low` (`above`: not that itself) to `high`."""
    value = body.get(name)
    if value is None:
        return default
    kind = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind):
        raise _wrong(name, f"'{name}' must be {'an integer' if whole else 'a number'}.", "invalid_type")
    if not (low <= value <= high) or (above and value == low) or not math.isfinite(value):
        raise _wrong(name, f"'{name}' must be {'above' if above else 'at least'} {low:g} and at most {high:g}.")
    return value if whole else float(value)


def _cells(body: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of the chat template; whether it reads them is known to the template alone."""
    found = {name: body[name] for name in (SWITCH, VALUES) if body.get(name) is not None}
    try:
        read_values(found, "the request")
    except DataError as error:
        raise _wrong(VALUES if VALUES in found else SWITCH, error.message.removeprefix("the request: ")) from error
    return found


def _max_tokens(body: Mapping[str, Any], limits: Limits) -> int:
    name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    value = _number(body, name, None, 1, 2**31, whole=True)
    if value is None:
        return min(limits.default_tokens, limits.most_tokens)
    if value > limits.most_tokens:
        raise _wrong(name, f"{name} is too large: {value}. This server gives at most {limits.most_tokens} tokens.")
    return int(value)


def _stop(value: Any) -> tuple[str, ...]:
    found = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(found, list) or len(found) > _MOST_STOPS or not all(isinstance(x, str) and x for x in found):
        raise _wrong("stop", f"'stop' must be a text or a list of at most {_MOST_STOPS} texts, none of them empty.")
    return tuple(_text(text, "stop") for text in found)


def _text(text: str, param: str) -> str:
    if not text.isascii() and _SURROGATE.search(text):
        raise _wrong(param, f"'{param}' holds half of a surrogate pair, which is no character.")
    return text


def _prompt(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not value:
        raise _wrong("prompt", "'prompt' must be a text, or a list of one text, and not empty.", "invalid_type")
    return _text(value, "prompt")


def _messages(value: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list) or not value:
        raise _wrong("messages", "'messages' must be a list of at least one message.", "missing_required_parameter")
    found = []
    for number, message in enumerate(value):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise _wrong(where, f"'{where}' must be an object whose role is one of {', '.join(_ROLES)}.")
        told = _carried(message, where)
        if message.get("content") is not None or not told.get("tool_calls"):
            told["content"] = _content(message.get("content"), f"{where}.content")
        found.append({"role": message["role"], **told})
    return tuple(found)


def _carried(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Keys of a message beside role and content that hold anything."""
    found: dict[str, Any] = {}
    for key, value in message.items():
        if key in ("role", "content") or value is None or value == []:
            continue
        place = f"{where}.{key}"
        if key not in _CARRIED and (key not in _EMPTY or value not in ("", {})):
            raise _wrong(place, f"'{place[:64]}' is not supported here.", "unknown_parameter")
        if key in _CARRIED:
            if not isinstance(value, _CARRIED[key]):
                raise _wrong(
                    place, f"'{place}' must be a {'list' if _CARRIED[key] is list else 'text'}.", "invalid_type"
                )
            # Half of a surrogate pair may stand anywhere in it.
            _text(json.dumps(value, ensure_ascii=False), place)
            found[key] = value
    for number, call in enumerate(found.get("tool_calls", ())):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _wrong(where, f"'{where}.tool_calls[{number}]' must be an object with a function that has a name.")
    return found


def _content(value: Any, where: str) -> str:
    """A text, or a list of parts of type text."""
    parts = value if isinstance(value, list) else [{"type": "text", "text": value}]
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise _wrong(where, f"'{where}' must be a text, or a list of parts of type text.", "invalid_type")
    return _text("".join(part["text"] for part in parts), where)


Scores = Sequence[tuple[str, float]]
"""Tokens as text, each with the log of its probability."""


def answer(wanted: CompletionRequest, text: str, done: Done, created: int, scores: Scores = ()) -> dict[str, Any]:
    """The object of a whole answer."""
    choice: dict[str, Any] = {"index": 0, "logprobs": _logprobs(wanted, scores, 0), "finish_reason": done.finish}
    if wanted.chat:
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        choice["text"] = text
    return {**_head(wanted, created, part=False), "choices": [choice], "usage": done.usage}


def _logprobs(wanted: CompletionRequest, scores: Scores, offset: int) -> dict[str, Any] | None:
    """`offset`: characters of the answer before these tokens."""
    if not wanted.scored:
        return None
    ends = list(accumulate((len(text) for text, _ in scores), initial=offset))
    return {
        "tokens": [text for text, _ in scores],
        "token_logprobs": [value for _, value in scores],
        "top_logprobs": None,
        "text_offset": ends[:-1],
    }


def chunk(
    wanted: CompletionRequest,
    created: int,
    text: str | None,
    finish: str | None = None,
    *,
    first: bool = False,
    scores: Scores = (),
    offset: int = 0,
) -> dict[str, Any]:
    """The object of a piece of a stream. `text` None: an end without text. `scores`, `offset`: of its tokens, and where they begin."""
    choice: dict[str, Any] = {"index": 0, "logprobs": _logprobs(wanted, scores, offset), "finish_reason": finish}
    if wanted.chat:
        delta = {"role": "assistant"} if first else {}
        choice["delta"] = delta if text is None else {**delta, "content": text}
    else:
        choice["text"] = text or ""
    found = {**_head(wanted, created, part=True), "choices": [choice]}
    return {**found, "usage": None} if wanted.with_usage else found


def usage_chunk(wanted: CompletionRequest, created: int, done: Done) -> dict[str, Any]:
    """The last object of a stream whose counts were asked for."""
    return {**_head(wanted, created, part=True), "choices": [], "usage": done.usage}


def _head(wanted: CompletionRequest, created: int, part: bool) -> dict[str, Any]:
    kind = ("chat.completion" + (".chunk" if part else "")) if wanted.chat else "text_completion"
    return {
        "id": ("chatcmpl-" if wanted.chat else "cmpl-") + wanted.id,
        "object": kind,
        "created": created,
        "model": wanted.model,
    }


def model_object(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "petrun"}


def event(found: Mapping[str, Any] | str) -> bytes:
    """A server-sent event."""
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    return f"data: {text}\n\n".encode()
