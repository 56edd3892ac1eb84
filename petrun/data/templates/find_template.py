"""Find the template of rows: a built-in one, a file, or the tokenizer's chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser

from petrun.data.rows.kinds import RowKind
from petrun.data.rows.kinds import row_kind as kind_named
from petrun.data.templates.template import RESERVED, Template, compiled, variables
from petrun.errors import ConfigError, DataError, did_you_mean

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


TOKENIZER = "chat"
"""The name of the tokenizer's chat template."""


def find_template(
    value: str | Template | None,
    *,
    chat_template: str | None,
    row_kind: str,
    chat_template_file: str = "the tokenizer's chat template",
) -> Template | None:
    """Return the template for rows of this kind.

    Inputs: `value`, a built-in name, "chat" (that of the tokenizer), a file, or None: messages and instructions then take the
    tokenizer's chat template where it has one, instructions else alpaca, everything else plain; `chat_template_file`, the file that
    holds the tokenizer's chat template, for messages.
    Raises: DataError for an unknown name, a missing or broken file, and messages without any chat template.
    """
    kind = kind_named(row_kind)
    if not kind.templated:
        if isinstance(value, str):
            raise ConfigError(
                f"--template {value}: rows of the kind '{row_kind}' have no prompt to render", hint="Leave it out."
            )
        return None
    template = value if isinstance(value, Template) else _by_name(value, chat_template, kind, chat_template_file)
    if kind.conversation and not template.is_chat:
        raise DataError(
            f"the template {template.name} does not read `messages`, which these rows hold",
            hint="--template chatml, or a chat template's file.",
        )
    return template


def _by_name(value: str | None, chat_template: str | None, kind: RowKind, chat_template_file: str) -> Template:
    if value is None:
        if kind.tokenizer_template and chat_template is not None:
            return _checked(Template(name=TOKENIZER, text=chat_template), chat_template_file)
        if not kind.default_template:
            raise DataError(
                "the rows hold messages, but the tokenizer has no chat template",
                hint="--template chatml, or --template FILE with a jinja2 chat template.",
            )
        return Template(name=kind.default_template, text=BUILTIN[kind.default_template])
    if value == TOKENIZER:
        if chat_template is None:
            raise DataError(
                "--template chat: the tokenizer has no chat template",
                hint=f"Built in: {', '.join(BUILTIN)}; or a file.",
            )
        return _checked(Template(name=TOKENIZER, text=chat_template), chat_template_file)
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
    """Return the template with values for variables where a row sets none. They are part of the template's text in a delta.

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
    # A chat template drops the first newline after a block, so this newline is not printed.
    lines += "\n" if template.is_chat else ""
    return template if template.text.startswith(lines) else Template(name=template.name, text=lines + template.text)
