"""`petrun generate`: answer the prompts of flags and files with a base and any number of deltas. cli/chat.py answers lines of a
terminal, commands/draw.py draws.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from petrun.config.commands.drawing import DRAWING
from petrun.config.commands.text import GenerateSettings, SessionSettings
from petrun.config.effect import require_effect
from petrun.errors import ConfigError
from petrun.inference.generation.prompt_file import PromptRow, read_prompts, text_row
from petrun.inference.generation.session import Decoding, Session


def require_used(settings: GenerateSettings) -> None:
    """Raise ConfigError for options that have no effect beside the others, and for those of pictures."""
    if settings.task is not None:
        raise ConfigError(
            f"--task {settings.task}: this command takes image, and without it generates text", hint="Leave it out."
        )
    require_effect(settings, DRAWING, "on text", "Pictures are drawn with --task image.")
    if len(settings.use) > 1:
        raise ConfigError(
            f"--use {settings.use[1]}: text begins with one delta", hint="A file of --prompts names the delta of each."
        )
    if settings.temperature == 0:
        drawing = ("top_k", "top_p", "seed")
        require_effect(
            settings,
            drawing,
            "at temperature 0, which takes the likeliest token",
            "Give --temperature 1, or leave it out.",
        )
    if settings.prompt or settings.prompts is not None:
        require_effect(
            settings, ("no_history",), "on --prompt and --prompts, each of which is a conversation of its own"
        )


def read_rows(texts: Sequence[str], path: str | None) -> list[PromptRow]:
    """Collect the prompts: `texts` first, then those of the file. Raises DataError."""
    return [*map(text_row, texts), *([] if path is None else read_prompts(path))]


def open_session(settings: SessionSettings, use: str | None) -> Session:
    """Load base and deltas. `use`: the delta in use at first, or "off"; None: the first delta. Raises as Session.open says."""
    if settings.batch_size < 1:
        raise ConfigError(f"--batch-size {settings.batch_size} is below 1")
    session = Session.load(settings)
    session.use(use if use is not None else next(iter(session.names), None))
    return session


def answers(session: Session, rows: Sequence[PromptRow], decoding: Decoding, *, as_json: bool) -> Iterator[str]:
    """Answer the prompts, and yield the text to print, line ends included.

    One prompt streams; many are computed together and come in their order. `as_json`: one line for each answer, an object.
    """
    if len(rows) == 1 and not as_json:
        (row,) = rows
        yield from session.stream(row.prompt, delta=row.delta, how=decoding, cells=row.cells)
        yield "\n"
        return
    names = [session.current if row.delta is None else row.delta for row in rows]
    found = session.generate([row.prompt for row in rows], delta=names, how=decoding, cells=[row.cells for row in rows])
    for row, name, answer in zip(rows, names, found, strict=True):
        result = {"delta": name, "text": answer.text, "finish": answer.finish, "tokens": answer.tokens}
        yield (json.dumps({**row.item, **result}, ensure_ascii=False) if as_json else answer.text) + "\n"
