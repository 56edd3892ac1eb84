"""Read OpenAI's request bodies into a CompletionRequest, and write answers as OpenAI's objects. No HTTP and no net here.

Source: https://platform.openai.com/docs/api-reference (chat, completions, models, and the shape of errors). `top_k`,
`repetition_penalty`, `chat_template_kwargs` and `enable_thinking` are not OpenAI's; vLLM and other servers use these names.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from petrun.data.chat.messages import SWITCH, VALUES, read_values
from petrun.errors import DataError
from petrun.serve.api_error import ApiError
from petrun.typing import JsonObject

_MOST_STOPS = 4
_SURROGATE = re.compile("[\ud800-\udfff]")
_ROLES = ("system", "developer", "user", "assistant", "tool")
_CARRIED = {"tool_calls": list, "tool_call_id": str, "name": str, "reasoning_content": str}
"""Keys that a message may hold beside role and content; the template gets their values unchanged."""
_EMPTY = ("refusal", "audio", "function_call", "annotations")
"""Keys of the messages in OpenAI's own answers that nothing here reads: their values must be null or empty."""
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
_STREAM = ("include_usage", "include_obfuscation")
"""Keys of stream_options; OpenAI's obfuscation, characters that hide how long an event is, may be declined alone."""
_EFFORT = "reasoning_effort"
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,), "best_of": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},), "logprobs": (False, 0),
    "top_logprobs": (0,), "tools": ([],), "functions": ([],), "tool_choice": ("none", "auto"), "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "suffix": ("",), "echo": (False,), "verbosity": ("medium",),
    "store": (False,),
}  # fmt: skip
"""Parameters that are not supported -> the values that change nothing, which are accepted; null always is."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one request."""

    most_tokens: int = 1024
    """Most new tokens that a request may ask for."""
    default_tokens: int = 256
    """New tokens where the request names no number."""
    body_bytes: int = 1 << 20
    """Largest body."""


@dataclass(frozen=True, kw_only=True)
class CompletionRequest:
    """A request for a completion, every parameter checked."""

    model: str
    prompt: str | tuple[JsonObject, ...]
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
    cells: JsonObject = field(default_factory=dict)
    """Variables of the chat template that the request sets: enable_thinking, chat_template_kwargs."""
    scored: bool = False
    """Every token of the answer comes with its log probability."""
    id: str = field(default_factory=lambda: secrets.token_hex(12))

    @property
    def chat(self) -> bool:
        return not isinstance(self.prompt, str)


@dataclass(frozen=True, kw_only=True)
class AnswerEnd:
    """The end of an answer: its reason, and the counts of tokens."""

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


def parse_json(body: bytes) -> JsonObject:
    """Parse a body that must be a JSON object. Raises ApiError."""
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


def read_request(body: JsonObject, limits: Limits, *, chat: bool) -> CompletionRequest:
    """Check a body of /v1/chat/completions (`chat`) or /v1/completions. Raises ApiError that names the parameter."""
    known = _KNOWN | (_CHAT if chat else _TEXT)
    for name, value in body.items():
        if name not in known:
            raise _invalid(name, f"Unknown parameter: '{name[:64]}'.", "unknown_parameter")
        if value is not None and name in _NEUTRAL and value not in _NEUTRAL[name]:
            raise _invalid(
                name, f"'{name}' is not supported here, other than {_listed(_NEUTRAL[name])}.", "unsupported"
            )
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise _invalid("model", "you must provide a model parameter", "missing_required_parameter")
    stream = _flag(body, "stream")
    options = body.get("stream_options")
    if options is not None and (not stream or not isinstance(options, dict)):
        raise _invalid("stream_options", "'stream_options' is an object, and only allowed when 'stream' is true.")
    for name, value in (options or {}).items():
        if name not in _STREAM or (name == "include_obfuscation" and value not in (None, False)):
            raise _invalid(
                "stream_options", f"'stream_options.{name[:64]}' is not supported here.", "unknown_parameter"
            )
    seed = _integer(body, "seed", -(2**63), 2**63 - 1)
    return CompletionRequest(
        model=model,
        prompt=_messages(body.get("messages")) if chat else _prompt(body.get("prompt")),
        max_tokens=_max_tokens(body, limits),
        temperature=_number(body, "temperature", 0.0, 2.0),
        top_p=_number(body, "top_p", 0.0, 1.0, above=True),
        top_k=_integer(body, "top_k", 0, 2**31) or 0,
        repetition_penalty=_number(body, "repetition_penalty", 0.0, 10.0, above=True),
        stop=_stop(body.get("stop")),
        seed=secrets.randbits(62) if seed is None else seed % 2**63,
        stream=stream,
        cells=_cells(body) if chat else {},
        with_usage=bool(options and _flag(options, "include_usage")),
        # 0 is not false: no alternatives, but the log probabilities of the chosen tokens.
        scored=not chat and body.get("logprobs") is not None and body["logprobs"] is not False,
    )


def _invalid(param: str, message: str, code: str | None = None) -> ApiError:
    return ApiError(400, message, code=code, param=param[:64])


def _listed(values: tuple[object, ...]) -> str:
    return " or ".join(json.dumps(value) for value in values)


def _flag(body: JsonObject, name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _invalid(name, f"'{name}' must be a boolean.", "invalid_type")
    return bool(value)


def _number(body: JsonObject, name: str, low: float, high: float, *, above: bool = False) -> float:
    """Read a number from `low` (`above`: not `low` itself) to `high`; 1 where the request has none."""
    value = body.get(name)
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(name, f"'{name}' must be a number.", "invalid_type")
    _require_range(name, value, low, high, above)
    return float(value)


def _integer(body: JsonObject, name: str, low: int, high: int) -> int | None:
    """Read an integer from `low` to `high`; None where the request has none."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise _invalid(name, f"'{name}' must be an integer.", "invalid_type")
    _require_range(name, value, low, high, False)
    return value


def _require_range(name: str, value: float, low: float, high: float, above: bool) -> None:
    if not (low <= value <= high) or (above and value == low) or not math.isfinite(value):
        raise _invalid(name, f"'{name}' must be {'above' if above else 'at least'} {low:g} and at most {high:g}.")


def _cells(body: JsonObject) -> JsonObject:
    """Read the variables of the chat template. Only the template knows whether it reads them."""
    found = {name: body[name] for name in (SWITCH, VALUES) if body.get(name) is not None}
    if body.get(_EFFORT) is not None:
        values = found.get(VALUES, {})
        if not isinstance(body[_EFFORT], str) or (isinstance(values, dict) and _EFFORT in values):
            raise _invalid(_EFFORT, f"'{_EFFORT}' must be a text, and given once.", "invalid_type")
        # As in vLLM: a variable of the chat template.
        found[VALUES] = {**values, _EFFORT: _text(body[_EFFORT], _EFFORT)} if isinstance(values, dict) else values
    try:
        read_values(found, "the request")
    except DataError as error:
        raise _invalid(VALUES if VALUES in found else SWITCH, error.message.removeprefix("the request: ")) from error
    return found


def _max_tokens(body: JsonObject, limits: Limits) -> int:
    name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    if name != "max_tokens" and body.get("max_tokens") is not None:
        # As OpenAI's own API answers.
        raise _invalid(
            "max_tokens",
            "'max_tokens' and 'max_completion_tokens' are one limit: give one.",
            "invalid_parameter_combination",
        )
    value = _integer(body, name, 1, 2**31)
    if value is None:
        return min(limits.default_tokens, limits.most_tokens)
    if value > limits.most_tokens:
        raise _invalid(name, f"{name} is too large: {value}. This server gives at most {limits.most_tokens} tokens.")
    return value


def _stop(value: object) -> tuple[str, ...]:
    """Read at most four texts; () for null."""
    found = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(found, list) or len(found) > _MOST_STOPS or not all(isinstance(x, str) and x for x in found):
        raise _invalid("stop", f"'stop' must be a text or a list of at most {_MOST_STOPS} texts, none of them empty.")
    return tuple(_text(text, "stop") for text in found)


def _text(text: str, param: str) -> str:
    if not text.isascii() and _SURROGATE.search(text):
        raise _invalid(param, f"'{param}' holds half of a surrogate pair, which is no character.")
    return text


def _prompt(value: object) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not value:
        raise _invalid("prompt", "'prompt' must be a text, or a list of one text, and not empty.", "invalid_type")
    return _text(value, "prompt")


def _messages(value: object) -> tuple[JsonObject, ...]:
    """Read the messages of a conversation, each with a role, and a text or tool calls."""
    if not isinstance(value, list) or not value:
        raise _invalid("messages", "'messages' must be a list of at least one message.", "missing_required_parameter")
    found = []
    for number, message in enumerate(value):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise _invalid(where, f"'{where}' must be an object whose role is one of {', '.join(_ROLES)}.")
        rest = _carried(message, where)
        if message.get("content") is not None or not rest.get("tool_calls"):
            rest["content"] = _content(message.get("content"), f"{where}.content")
        found.append({"role": message["role"], **rest})
    return tuple(found)


def _carried(message: JsonObject, where: str) -> JsonObject:
    """Read the keys of a message beside role and content that have a value."""
    found: JsonObject = {}
    for key, value in message.items():
        if key in ("role", "content") or value is None or value == []:
            continue
        param = f"{where}.{key}"
        if key not in _CARRIED and (key not in _EMPTY or value not in ("", {})):
            raise _invalid(param, f"'{param[:64]}' is not supported here.", "unknown_parameter")
        if key in _CARRIED:
            if not isinstance(value, _CARRIED[key]):
                raise _invalid(
                    param, f"'{param}' must be a {'list' if _CARRIED[key] is list else 'text'}.", "invalid_type"
                )
            # Any text in it may hold half of a surrogate pair.
            _text(json.dumps(value, ensure_ascii=False), param)
            found[key] = value
    for number, call in enumerate(found.get("tool_calls", ())):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _invalid(where, f"'{where}.tool_calls[{number}]' must be an object with a function that has a name.")
    return found


def _content(value: object, where: str) -> str:
    """Read a text, or join a list of parts of type text."""
    parts: list[JsonObject] = value if isinstance(value, list) else [{"type": "text", "text": value}]
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise _invalid(where, f"'{where}' must be a text, or a list of parts of type text.", "invalid_type")
    return _text("".join(part["text"] for part in parts), where)


Scores = Sequence[tuple[str, float]]
"""Tokens as text, each with the natural logarithm of its probability."""


def answer_object(
    request: CompletionRequest, text: str, end: AnswerEnd, created: int, scores: Scores = ()
) -> JsonObject:
    """Write the object of a whole answer."""
    choice: JsonObject = {"index": 0, "logprobs": _logprobs(request, scores, 0), "finish_reason": end.finish}
    if request.chat:
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        choice["text"] = text
    return {**_head(request, created, chunk=False), "choices": [choice], "usage": end.usage}


def _logprobs(request: CompletionRequest, scores: Scores, offset: int) -> JsonObject | None:
    """Write the log probabilities; None where the request does not ask for them. `offset`: characters before these tokens."""
    if not request.scored:
        return None
    ends = list(accumulate((len(text) for text, _ in scores), initial=offset))
    return {
        "tokens": [text for text, _ in scores],
        "token_logprobs": [value for _, value in scores],
        "top_logprobs": None,
        "text_offset": ends[:-1],
    }


def chunk_object(
    request: CompletionRequest,
    created: int,
    text: str | None,
    finish: str | None = None,
    *,
    first: bool = False,
    scores: Scores = (),
    offset: int = 0,
) -> JsonObject:
    """Write the object of a chunk. `text` None: the end, without text. `scores`: of its tokens, which begin at character `offset`."""
    choice: JsonObject = {"index": 0, "logprobs": _logprobs(request, scores, offset), "finish_reason": finish}
    if request.chat:
        delta = {"role": "assistant"} if first else {}
        choice["delta"] = delta if text is None else {**delta, "content": text}
    else:
        choice["text"] = text or ""
    found = {**_head(request, created, chunk=True), "choices": [choice]}
    return {**found, "usage": None} if request.with_usage else found


def usage_object(request: CompletionRequest, created: int, end: AnswerEnd) -> JsonObject:
    """Write the last object of a stream whose request asked for the counts of tokens."""
    return {**_head(request, created, chunk=True), "choices": [], "usage": end.usage}


def _head(request: CompletionRequest, created: int, *, chunk: bool) -> JsonObject:
    kind = ("chat.completion" + (".chunk" if chunk else "")) if request.chat else "text_completion"
    return {
        "id": ("chatcmpl-" if request.chat else "cmpl-") + request.id,
        "object": kind,
        "created": created,
        "model": request.model,
    }


def model_object(name: str, created: int) -> JsonObject:
    return {"id": name, "object": "model", "created": created, "owned_by": "petrun"}


def event(found: JsonObject | str) -> bytes:
    """Encode a server-sent event."""
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    return f"data: {text}\n\n".encode()
