"""Read the prompts of `petrun generate` from a file of lines or of JSON objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from petrun import console
from petrun.data.chat.messages import EXTRA_CELLS, Message, is_conversation
from petrun.data.formats.encoding import decode_text
from petrun.data.formats.jsonl import JSONL
from petrun.data.formats.source import read_source
from petrun.errors import DataError, did_you_mean
from petrun.typing import JsonObject

_PROMPTS = ("prompt", "messages", "conversations")
_KNOWN = (*_PROMPTS, "delta", *EXTRA_CELLS)
_EXAMPLE = 'Example: {"prompt": "Hello", "delta": "a"}, or {"messages": [{"role": "user", "content": "Hello"}]}.'


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """A prompt, and the delta and the cells that were written beside it."""

    prompt: str | Sequence[Message]
    delta: str | None = None
    """Name of the delta that answers; None: the one in use."""
    cells: Mapping[str, object] = field(default_factory=dict)
    """As PromptRequest.cells."""
    item: JsonObject
    """The object that the row was read from."""


def text_row(text: str) -> PromptRow:
    """Make the row of a prompt that is a text alone."""
    return PromptRow(prompt=text, item={"prompt": text})


def read_prompts(path: str) -> list[PromptRow]:
    """Read a file with a prompt a line, which may be compressed and have any encoding that data files may have.

    Lines of a .jsonl or .ndjson file are objects. Raises DataError that names the line.
    """
    try:
        source = read_source(path)
        decoded = decode_text(source)
    except DataError as error:
        raise DataError(f"--prompts {error.message}", hint=error.hint, code=error.code) from error
    if decoded.note:
        console.print_to_stderr(f"note: {decoded.note}")
    # Split at line ends only: str.splitlines would split at U+2028 and U+0085 too, which occur within texts and JSON strings.
    numbered = [(number, line) for number, line in enumerate(decoded.text.split("\n"), 1) if line.strip()]
    if source.rows is not None:
        numbered = numbered[source.rows.start : source.rows.stop]
    if not numbered:
        raise DataError(f"--prompts {path}: holds no prompt", hint="One prompt a line.")
    if source.suffix not in JSONL.suffixes:
        return [text_row(line) for _, line in numbered]
    return [_object_row(f"--prompts {path}, line {number}", line) for number, line in numbered]


def _object_row(where: str, line: str) -> PromptRow:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not valid JSON ({error})", hint=_EXAMPLE) from error
    if not isinstance(item, dict):
        raise DataError(f"{where}: must be an object with prompt or messages, and perhaps delta", hint=_EXAMPLE)
    unknown = [name for name in item if name not in _KNOWN]
    if unknown:
        raise DataError(f"{where}: unknown key '{unknown[0]}'", hint=did_you_mean(unknown[0], _KNOWN))
    given = [name for name in _PROMPTS if name in item]
    if len(given) != 1:
        raise DataError(f"{where}: must have either prompt or messages", hint=_EXAMPLE)
    if not isinstance(item.get("prompt", ""), str) and not is_conversation(item["prompt"]):
        raise DataError(f"{where}: prompt must be a text, or messages", hint=_EXAMPLE)
    if any(name in item and not is_conversation(item[name]) for name in _PROMPTS[1:]) or not isinstance(
        item.get("delta", ""), str
    ):
        raise DataError(f"{where}: messages must be a list of messages, and delta a name", hint=_EXAMPLE)
    value = item[given[0]]
    # A conversation may be written as JSON text.
    prompt = json.loads(value) if given[0] != "prompt" and isinstance(value, str) else value
    cells = {name: item[name] for name in EXTRA_CELLS if name in item}
    return PromptRow(prompt=prompt, delta=item.get("delta"), cells=cells, item=item)
