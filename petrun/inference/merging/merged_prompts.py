"""Write the delta's template into a merged folder as its chat template, and the delta's end of turn."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from petrun.checkpoint.delta import Delta, Manifest
from petrun.data.chat.end_of_turn import EndOfTurn
from petrun.data.rows.kinds import template_column
from petrun.data.tasks import PROMPTED_TASKS
from petrun.data.templates.as_chat_template import as_chat_template
from petrun.data.templates.find_template import BUILTIN
from petrun.data.templates.template import Template
from petrun.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from petrun.errors import DataError
from petrun.inference.settings import learned_end_of_turn
from petrun.models.base import DECODER_INPUTS
from petrun.models.families import FAMILIES
from petrun.models.folder import CONFIG, eos_ids, read_json
from petrun.tensors import atomic_file
from petrun.typing import JsonObject

_GENERATION, _TOKENIZER, _TEMPLATE = "generation_config.json", "tokenizer_config.json", "chat_template.jinja"


@dataclass(frozen=True, kw_only=True)
class MergedPrompts:
    """Files to write beside the weights, and notes for the user about them."""

    chat_template: str | None
    """None: the folder keeps its own."""
    eos_token_ids: tuple[int, ...]
    """() where the folder keeps the base's own."""
    end_of_turn: EndOfTurn
    notes: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Change the files of a merged folder, before it is moved to its final path."""
        if self.chat_template is not None:
            with atomic_file(folder / _TEMPLATE) as (out, _):
                out.write(self.chat_template.encode())
            # transformers before 4.43 reads this key alone.
            _change(folder / _TOKENIZER, lambda old: {**old, "chat_template": self.chat_template})
        ids = list(self.eos_token_ids)
        if ids:
            _change(folder / CONFIG, lambda old: {**old, "eos_token_id": ids})
        if ids or self.end_of_turn.texts:
            own = read_json(folder / CONFIG)
            first = {
                key: own[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if own.get(key) is not None
            }
            new = ({"eos_token_id": ids} if ids else {}) | (
                {"stop_strings": list(self.end_of_turn.texts)} if self.end_of_turn.texts else {}
            )
            _change(folder / _GENERATION, lambda old: {**(old or first), **new})


def _change(path: Path, change: Callable[[JsonObject], JsonObject]) -> None:
    """Rewrite a JSON file; a missing file counts as {}."""
    content = change(read_json(path) if path.is_file() else {})
    with atomic_file(path) as (out, _):
        out.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def holds_prompts(delta: Delta) -> bool:
    """Tell whether the delta learned to answer prompts, which a template of its own renders."""
    manifest = delta.manifest
    return (
        manifest is not None
        and manifest.task is not None
        and manifest.task.name in PROMPTED_TASKS
        and bool(manifest.template)
    )


def merged_prompts(delta: Delta, folder: Path, raw: JsonObject) -> MergedPrompts | None:
    """Decide what to write for a delta that learned to answer prompts; None for others. `raw`: config.json of the base in `folder`."""
    manifest = delta.manifest
    if manifest is None or manifest.template is None or not holds_prompts(delta):
        return None
    try:
        tokenizer = load_tokenizer(folder)
    except DataError as error:
        reason = f"the delta's template is left out, for the base's tokenizer cannot be read: {error.message}"
        return MergedPrompts(chat_template=None, eos_token_ids=(), end_of_turn=EndOfTurn(), notes=(reason,))
    if tokenizer is None:
        reason = "the delta's template is left out, for the base's folder holds no tokenizer"
        return MergedPrompts(chat_template=None, eos_token_ids=(), end_of_turn=EndOfTurn(), notes=(reason,))
    end_of_turn = learned_end_of_turn(manifest, tokenizer)
    known = eos_ids(raw, folder)
    added = end_of_turn.ids - set(known)
    ids: tuple[int, ...] = ()
    if added:
        own = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
        ids = tuple(dict.fromkeys((*known, *own, *sorted(added))))
    chat, notes = _chat_template(manifest, Template(name="delta", text=manifest.template), tokenizer)
    if ids:
        words = ", ".join(tokenizer.token(i) for i in ids)
        notes = (*notes, f"answers end at any of {words} (eos_token_id of {CONFIG} and {_GENERATION})")
    if end_of_turn.texts:
        notes = (
            *notes,
            f"answers end in the text {' '.join(end_of_turn.texts)}, for which the tokenizer has no token: it stands in {_GENERATION} as "
            "stop_strings, which generate() heeds where it is given the tokenizer",
        )
    return MergedPrompts(chat_template=chat, eos_token_ids=ids, end_of_turn=end_of_turn, notes=notes)


def _chat_template(manifest: Manifest, template: Template, tokenizer: Tokenizer) -> tuple[str | None, tuple[str, ...]]:
    """Return the chat template to write, None to keep the folder's own, and notes for the user."""
    kind = manifest.task.rows if manifest.task is not None else None
    own = tokenizer.chat_template
    if template.text == own:
        return None, _how_to_ask(kind)
    family = FAMILIES.get(manifest.family)
    if family is not None and DECODER_INPUTS in family.inputs and template.text != BUILTIN["plain"]:
        # A chat template would be taken for the turns of a conversation.
        return None, ("the delta's template is left out: give it again with --template",)
    if template.is_chat:
        return template.text, ("the delta's template is written as the chat template", *_how_to_ask(kind))
    if template.text == BUILTIN["plain"]:
        rows_differ = own is not None and kind == "instruction"
        again = ("the delta was trained without the chat template that the folder has: evaluate with --template plain",)
        return None, again if rows_differ else ()
    prefix = tokenizer.prefix_ids
    text = None
    if not prefix or prefix == [tokenizer.bos_id]:
        text = as_chat_template(template.text, template_column(kind or "instruction"), with_bos=bool(prefix))
    if text is None:
        return None, (
            "the delta's template is left out, for it reads columns that messages do not have: give it again with --template FILE",
        )
    notes = ["the delta's template is written as the chat template", *_how_to_ask(kind)]
    if "input" in template.text and kind != "reference":
        notes.append("of a row with an input, give it beside the messages: apply_chat_template(messages, input=...)")
    return text, tuple(notes)


def _how_to_ask(kind: str | None) -> tuple[str, ...]:
    """Write a note for rows that get a chat template only where the user asks for it."""
    if kind in ("completion", "reference"):
        return ("rows like those of the training get it with --template chat",)
    return ()
