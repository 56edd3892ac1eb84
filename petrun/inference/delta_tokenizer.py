"""The tokenizer that a delta's ids belong to. A delta with rows of tokens brings its own: the base's may have been replaced by then."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from petrun import console
from petrun.checkpoint.delta import Delta
from petrun.checkpoint.hf_config import write_companions
from petrun.checkpoint.tied import is_shared
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.errors import DataError, DeltaError
from petrun.inference.rows import open_tokenizer
from petrun.tensors import atomic_folder
from petrun.typing import JsonObject

_FOLDER = "tokenizer"
"""Beside the delta's file."""


def save_tokenizer(delta: Path, tensors: Iterable[str], tokenizer: Tokenizer | None, config: JsonObject) -> None:
    """Copy the tokenizer's files beside a delta with rows of tokens, once; of any other delta the base's tokenizer is enough.

    `tensors`: names of the delta's; `config`: config.json of the base, which says of which class the tokenizer is. Raises OutputError.
    """
    folder = delta.parent / _FOLDER
    if tokenizer is not None and any(map(is_shared, tensors)) and not folder.exists():
        with atomic_folder(folder) as made:
            write_companions(made, config, tokenizer.files.folder)


def brought_tokenizer(delta: Delta) -> Tokenizer | None:
    """Return the tokenizer that lies beside a delta, where it is the one that the delta was trained with."""
    digest = _digest(delta)
    folder = delta.path.parent / _FOLDER
    if digest is None or not any(map(is_shared, delta.shapes)) or not folder.is_dir():
        return None
    found = open_tokenizer(folder)
    return found if found is not None and found.digest == digest else None


def tokenizer_for(folder: Path | None, deltas: Iterable[Delta]) -> Tokenizer | None:
    """Open the tokenizer of a base's folder, or the one that a delta brings where its ids mean other tokens.

    Raises DeltaError where rows of tokens were trained with another tokenizer that is not at hand, or two deltas need different ones.
    """
    own = open_tokenizer(folder)
    chosen: tuple[Tokenizer, Delta] | None = None
    for delta in deltas:
        digest = _digest(delta)
        if digest is None or (own is not None and own.digest == digest):
            continue
        brought = brought_tokenizer(delta)
        if brought is None:
            note_tokenizer(delta, own)
        elif chosen is not None and chosen[0].digest != brought.digest:
            raise DeltaError(f"{chosen[1].path} and {delta.path} were trained with different tokenizers")
        else:
            chosen = brought, delta
    if chosen is None:
        return own
    console.print(f"note: the tokenizer that {chosen[1].path} was trained with is used, {chosen[0].files.folder}")
    return chosen[0]


def tokenizer_folder(delta: Delta, folder: Path) -> Path:
    """Return the folder whose tokenizer files belong beside a model or an adapter that is made of the delta: `folder` is the base's.

    Raises DeltaError as note_tokenizer does. A tokenizer of the base that cannot be read is copied as it is.
    """
    brought = brought_tokenizer(delta)
    if brought is not None:
        return brought.files.folder
    with suppress(DataError):
        note_tokenizer(delta, open_tokenizer(folder))
    return folder


def note_tokenizer(delta: Delta, tokenizer: Tokenizer | None) -> None:
    """Print a note where the base's tokenizer has changed: ids may mean other words than the delta learned.

    Raises DeltaError where rows of tokens were learned, which nothing else gives a meaning.
    """
    digest = _digest(delta)
    if digest is None or tokenizer is None or tokenizer.digest == digest:
        return
    folder = tokenizer.files.folder
    if any(map(is_shared, delta.shapes)):
        raise DeltaError(
            f"{delta.path}: holds rows of tokens, and the tokenizer in {folder} is not the one that it was trained with",
            hint=f"Give the base that `petrun vocab merge` wrote, or put that tokenizer's files in {delta.path.parent / _FOLDER}.",
        )
    console.print(f"note: the tokenizer in {folder} is not the one that {delta.path} was trained with")


def _digest(delta: Delta) -> str | None:
    return delta.manifest.tokenizer_digest if delta.manifest is not None else None
