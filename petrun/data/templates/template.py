"""Render prompt templates: from a row's columns to the text before the completion.

A prompt template is jinja2 over the row's columns; `prompt`, `instruction`, `input` and `system` are always defined ('' where the
row has none), and `history`, a list of (asked, answered). A template that reads `messages` is a chat template
(petrun/data/chat/assistant_mask.py).
jinja2 drops one newline at the end of a template. Templates come from users and from downloaded tokenizers, so they run in jinja2's
sandbox.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from petrun.errors import DataError

# Brackets around a `{% generation %}` block. Jinja output is text, so only marks inside it can show where a block begins and ends.
OPEN, CLOSE = "\x00petrun-generation\x01", "\x00petrun-endgeneration\x01"

RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""Variables of a chat template that a row or petrun itself sets."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """A template with its text, which a delta stores."""

    name: str
    text: str

    @property
    def is_chat(self) -> bool:
        return "messages" in variables(self.text)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def render_prompt(template: Template, row: Mapping[str, object], where: str) -> str:
    """Return the text before the completion.

    Raises: DataError naming the row when the template fails on it, an undefined column included.
    """
    return strip_marks(run_template(template, dict(row), where, f"Columns of the row: {', '.join(row)}"))


def run_template(template: Template, values: Mapping[str, object], where: str, hint: str) -> str:
    """Render a template. Raises DataError naming the row and the template's error."""
    try:
        return compiled(template.text).render(dict(values))
    except jinja2.UndefinedError as error:
        raise DataError(f"{where}: the template {template.name} fails: {error.message}", hint=hint) from error
    except (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        ArithmeticError,
    ) as error:
        raise DataError(f"{where}: the template {template.name} fails: {error}", hint=hint) from error


def strip_marks(text: str) -> str:
    return text.replace(OPEN, "").replace(CLOSE, "") if OPEN[0] in text else text


class _Generation(jinja2.ext.Extension):
    """Parses `{% generation %} ... {% endgeneration %}`, with which chat templates mark the assistant's words."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's interface

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return f"{OPEN}{caller()}{CLOSE}"


class _Refused(jinja2.TemplateError):
    """A template called raise_exception."""


def _raise_exception(message: str) -> None:
    raise _Refused(message)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes HTML characters, which chat templates do not expect. The parameters are in transformers' order.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=1)
def _environments() -> tuple[jinja2.Environment, jinja2.Environment]:
    """Return the jinja2 environments (for chat templates, for prompt templates).

    Chat templates are written for transformers, where an undefined name is empty; in a prompt template it is a misspelt column.
    """
    both = []
    for undefined in (jinja2.Undefined, jinja2.StrictUndefined):
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=undefined is jinja2.Undefined,
            lstrip_blocks=undefined is jinja2.Undefined,
            undefined=undefined,
            extensions=[_Generation, jinja2.ext.loopcontrols],
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        both.append(environment)
    return both[0], both[1]


@lru_cache(maxsize=64)
def compiled(text: str) -> jinja2.Template:
    chat, prompt = _environments()
    return (chat if "messages" in variables(text) else prompt).from_string(text)


@lru_cache(maxsize=64)
def variables(text: str) -> frozenset[str]:
    """Return the names that a template reads and does not set itself."""
    environment = _environments()[0]
    return frozenset(jinja2.meta.find_undeclared_variables(environment.parse(text)))


@lru_cache(maxsize=64)
def keys_read(text: str) -> frozenset[str]:
    """Return the names that a template may look up in a message: attributes, and all its string constants."""
    tree = _environments()[0].parse(text)
    attributes = {node.attr for node in tree.find_all(jinja2.nodes.Getattr)}
    return frozenset(
        attributes | {node.value for node in tree.find_all(jinja2.nodes.Const) if isinstance(node.value, str)}
    )
