"""Prompt templates: a row's columns -> the text before the completion.

A prompt template is jinja2 over the row's columns; `prompt`, `instruction`, `input` and `system` are always defined ('' where the
row has none), and `history`, a list of (asked, answered). A template that reads `messages` is a chat template
(petrun/data/chat/assistant_mask.py).
As jinja2 does by itself, one newline at the end of a template is dropped. Templates come from users and from downloaded tokenizers,
so they run in jinja2's sandbox.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from petrun.errors import ConfigError, DataError, did_you_mean

# Brackets around what `{% generation %}` encloses. Jinja output is text, so marks inside it are the only way to know the place.
OPEN, CLOSE = "\x00petrun-generation\x01", "\x00petrun-endgeneration\x01"

BUILTIN = {
    "plain": (
        "{% if system %}{{ system }}\n{% endif %}{{ prompt }}{% if instruction %}{{ instruction }}\n{% endif %}"
        "{% if input %}{{ input }}\n{% endif %}"
    ),
    "alpaca": (
        "{% set task = instruction or prompt or input %}{% set both = instruction and input %}"
        "{% if system %}{{ system }}\n\n{% endif %}"
        "Below is an instruction that describes a task{% if both %}, paired with an input that provides further context{% endif %}. "
        "Write a response that appropriately completes the request.\n\n"
        "{% for asked, answered in history|default([]) %}### Instruction:\n{{ asked }}\n\n### Response:\n{{ answered }}\n\n{% endfor %}"
        "### Instruction:\n{{ task }}{% if both %}\n\n### Input:\n{{ input }}{% endif %}\n\n### Response:\n{{ '' }}"
    ),
    "chatml": (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{{ '' }}{% endif %}"
    ),
}
RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""What a row or petrun itself gives a chat template."""
TOKENIZER = "chat"
"""The name that stands for the tokenizer's own chat template."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """A template with its text, so that a delta can carry it."""

    name: str
    text: str

    @property
    def is_chat(self) -> bool:
        return "messages" in variables(self.text)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def find_template(
    value: str | Template | None,
    *,
    chat_template: str | None,
    row_kind: str,
    chat_place: str = "the tokenizer's chat template",
) -> Template | None:
    """The template that rows of this kind get.

    Inputs: `value`, a built-in name, "chat" (the tokenizer's own), a file, or None: messages and instructions then take the
    tokenizer's chat template where it has one, instructions else alpaca, everything else plain; `chat_place`, where that stands.
    Raises: DataError for an unknown name, a missing or broken file, and messages without any chat template.
    """
    if row_kind not in ("chat", "completion", "instruction", "reference"):
        if isinstance(value, str):
            raise ConfigError(
                f"--template {value}: rows of the kind '{row_kind}' have no prompt to render", hint="Leave it out."
            )
        return None
    template = value if isinstance(value, Template) else _by_name(value, chat_template, row_kind, chat_place)
    if row_kind == "chat" and not template.is_chat:
        raise DataError(
            f"the template {template.name} does not read `messages`, which these rows hold",
            hint="--template chatml, or a chat template's file.",
        )
    return template


def _by_name(value: str | None, chat_template: str | None, row_kind: str, chat_place: str) -> Template:
    if value is None:
        if row_kind in ("chat", "instruction") and chat_template is not None:
            return _checked(Template(name=TOKENIZER, text=chat_template), chat_place)
        if row_kind == "chat":
            raise DataError(
                "the rows hold messages, but the tokenizer has no chat template",
                hint="--template chatml, or --template FILE with a jinja2 chat template.",
            )
        name = "alpaca" if row_kind == "instruction" else "plain"
        return Template(name=name, text=BUILTIN[name])
    if value == TOKENIZER:
        if chat_template is None:
            raise DataError(
                "--template chat: the tokenizer has no chat template",
                hint=f"Built in: {', '.join(BUILTIN)}; or a file.",
            )
        return _checked(Template(name=TOKENIZER, text=chat_template), chat_place)
    if value in BUILTIN:
        return Template(name=value, text=BUILTIN[value])
    path = Path(value).expanduser()
    if not path.is_file():
        raise DataError(
            f"--template {value}: neither a file nor a built-in template",
            hint=did_you_mean(value, [*BUILTIN, TOKENIZER]),
        )
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the template is not UTF-8 text") from error
    except OSError as error:
        raise DataError(f"{path}: the template cannot be read: {error.strerror or error}") from error
    if not text.strip():
        raise DataError(f"{path}: the template is empty")
    return _checked(Template(name=path.name, text=text), str(path))


def _checked(template: Template, where: str) -> Template:
    try:
        compiled(template.text)
    except jinja2.TemplateSyntaxError as error:
        raise DataError(f"{where}, line {error.lineno}: {error.message}", hint="Templates are jinja2.") from error
    return template


def preset(template: Template, values: Mapping[str, bool | float | str]) -> Template:
    """The template with values for variables where a row sets none. A delta carries them as part of the template's text.

    Raises: ConfigError for a variable that the template does not read.
    """
    if not values:
        return template
    read = variables(template.text) - RESERVED
    for name in values:
        if name not in read:
            raise ConfigError(
                f"data.chat_template_kwargs.{name}: the template {template.name} does not read it",
                hint=did_you_mean(name, read),
            )
    lines = "".join(
        f"{{% if {name} is not defined %}}{{% set {name} = {json.dumps(value, ensure_ascii=False)} %}}{{% endif %}}"
        for name, value in sorted(values.items())
    )
    # In a chat template the newline goes with the block before it, as every first newline behind a block does.
    lines += "\n" if template.is_chat else ""
    return template if template.text.startswith(lines) else Template(name=template.name, text=lines + template.text)


def render_prompt(template: Template, row: Mapping[str, Any], where: str) -> str:
    """The text before the completion.

    Raises: DataError naming the row when the template fails on it, an undefined column included.
    """
    return strip_marks(run_template(template, dict(row), where, f"Columns of the row: {', '.join(row)}"))


def run_template(template: Template, values: Mapping[str, Any], where: str, hint: str) -> str:
    """Raises: DataError naming the row and what the template complains of."""
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
    """`{% generation %} ... {% endgeneration %}`, by which chat templates mark what the assistant says."""

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
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes HTML characters, which chat templates do not expect. The parameters stand in transformers' order.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=1)
def _environments() -> tuple[jinja2.Environment, jinja2.Environment]:
    """(for chat templates, for prompt templates).

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
    """Names that a template reads and does not set itself."""
    environment = _environments()[0]
    return frozenset(jinja2.meta.find_undeclared_variables(environment.parse(text)))


@lru_cache(maxsize=64)
def keys_read(text: str) -> frozenset[str]:
    """Names that a template may look up in a message: attributes, and all its string constants."""
    tree = _environments()[0].parse(text)
    attributes = {node.attr for node in tree.find_all(jinja2.nodes.Getattr)}
    return frozenset(
        attributes | {node.value for node in tree.find_all(jinja2.nodes.Const) if isinstance(node.value, str)}
    )
