"""Read the chat template of a tokenizer's folder, chosen as transformers chooses it.

chat_template.jinja, or `chat_template` of tokenizer_config.json: a text, or several named ones. additional_chat_templates/NAME.jinja
adds named ones. Files are preferred to the settings. Rows with tools take the one named tool_use, all others "default".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from petrun.errors import DataError

ADDITIONAL = "additional_chat_templates"
_DEFAULT, _TOOL_USE = "default", "tool_use"


def read_chat_template(folder: Path, config: Mapping[str, object], read: Callable[[Path], str]) -> str | None:
    """Return one text; where there is a template for tools, both in one text, so that a delta stores both. None where there is none.

    Inputs: `config`, the object of tokenizer_config.json; `read`, a file's text.
    Raises: DataError for a chat_template that is neither text nor a list of named ones, and where none can be chosen.
    """
    named = {path.stem: read(path) for path in sorted((folder / ADDITIONAL).glob("*.jinja"))}
    file = folder / "chat_template.jinja"
    if file.is_file():
        named[_DEFAULT] = read(file)
    else:
        named = {**_from_config(folder, config), **named}
    default, tools = named.get(_DEFAULT), named.get(_TOOL_USE)
    if not named or (default is not None and tools in (None, default)):
        return default
    if tools is None:
        raise DataError(
            f"{folder / 'tokenizer_config.json'}: none of the chat templates is named 'default'",
            hint=f"Named: {', '.join(named)}",
        )
    return _both(tools, default)


def template_files(folder: Path) -> list[Path]:
    """Return the files of named templates, relative to the folder, which are copied beside merged weights."""
    return [path.relative_to(folder) for path in sorted((folder / ADDITIONAL).glob("*.jinja"))]


def _from_config(folder: Path, config: Mapping[str, object]) -> dict[str, str]:
    template = config.get("chat_template")
    if template is None:
        return {}
    if isinstance(template, str):
        return {_DEFAULT: template}
    entries = [entry for entry in template if isinstance(entry, Mapping)] if isinstance(template, list) else []
    named = {str(entry.get("name")): entry["template"] for entry in entries if isinstance(entry.get("template"), str)}
    if not named:
        raise DataError(
            f"{folder / 'tokenizer_config.json'}: chat_template is neither text nor a list of named templates"
        )
    return named


def _both(tools: str, default: str | None) -> str:
    """Return a template that is `tools` where a row has tools, else `default`.

    Joining changes no white space: `{%+` keeps the white space before it; the newline after a block is dropped with it, so the next text
    begins a line, as a template does. jinja2 drops one newline at the end of a template, here of each of the two.
    """
    if default is None:
        missing = "the row has no tools, and no chat template is named 'default'"
        default = f"{{{{ raise_exception({json.dumps(missing)}) }}}}"
    first, second = (text.removesuffix("\n") for text in (tools, default))
    return f"{{% if tools %}}\n{first}{{%+ else %}}\n{second}{{%+ endif %}}"
