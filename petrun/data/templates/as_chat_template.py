"""Write a prompt template over a row's columns as a chat template, for programs that read merged folders and have messages only."""

from __future__ import annotations

import json

from petrun.data.templates.template import compiled, variables

_COLUMNS = ("prompt", "instruction", "input")
_FROM_MESSAGES = ("system", "history")


def as_chat_template(text: str, source: str, *, with_bos: bool) -> str | None:
    """Return a chat template that writes the user's last message as the prompt template writes its column `source`, and the answer with
    the end of sequence after it. None where the template reads other columns, which no message has.

    Earlier turns become its `history`, a system message its `system`; the other columns are variables:
    apply_chat_template(messages, input=...). `with_bos`: rows begin with the tokenizer's BOS.
    """
    read = variables(text)
    if source not in _COLUMNS or not read <= {*_COLUMNS, *_FROM_MESSAGES}:
        return None
    parts = [
        "{% set ns = namespace(system='', history=[], asked=none, answer=none) %}{% for message in messages %}",
        "{% if message['role'] == 'system' %}",
        "{% set ns.system = message['content'] %}" if "system" in read else _refusal("takes no system message"),
        "{% elif message['role'] == 'user' %}{% if ns.answer is not none %}",
        "{% set ns.history = ns.history + [[ns.asked, ns.answer]] %}"
        if "history" in read
        else _refusal("takes one turn"),
        "{% elif ns.asked is not none %}" + _refusal("takes turns of user and assistant") + "{% endif %}",
        "{% set ns.asked = message['content'] %}{% set ns.answer = none %}",
        "{% elif message['role'] == 'assistant' %}{% set ns.answer = message['content'] %}",
        "{% else %}" + _refusal("takes messages of user and assistant") + "{% endif %}{% endfor %}",
        "{% set system = ns.system %}{% set history = ns.history %}",
        *(_set(name, source, read) for name in _COLUMNS),
        "{{ bos_token }}" if with_bos else "",
        _without_plain_text(text),
        "{% if ns.answer is not none %}{{ ns.answer }}{{ eos_token }}{% endif %}",
    ]
    return "".join(parts)


def _set(name: str, source: str, read: frozenset[str]) -> str:
    value = "ns.asked" if name == source else f"{name} | default('', true)" if name in read else "''"
    return f"{{% set {name} = {value} %}}"


def _refusal(what: str) -> str:
    return f"{{{{ raise_exception('This template {what}') }}}}"


def _without_plain_text(text: str) -> str:
    """Return the template with its plain text as printed strings: chat templates drop white space around blocks, prompt templates keep
    it.
    """
    tokens = compiled(text).environment.lex(text)
    kept = [(kind, value) for _, kind, value in tokens if not kind.startswith(("raw_", "comment"))]
    return "".join(
        f"{{{{ {json.dumps(value, ensure_ascii=False)} }}}}" if kind == "data" else value for kind, value in kept
    )
