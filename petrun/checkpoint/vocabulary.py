"""Write a base with a longer vocabulary: the tables of embedding and head get rows for new pieces, all other tensors stay as they are.

A new row is the mean of the rows of the tokens that the piece was cut into before; where the base knew nothing of it, the mean of all rows.
Tables may hold more rows than the tokenizer has ids: new pieces then take rows of that padding, by their ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from petrun.checkpoint.hf_config import write_companions
from petrun.data.tokenizers.extension import ExtendedTokenizer, NewPiece
from petrun.delta.rows import ids_of, spell_rows
from petrun.errors import ModelError, WeightsError
from petrun.models.factory import read_model_config
from petrun.models.folder import weights_path
from petrun.tensors import (
    Array,
    TensorEntry,
    TensorReader,
    atomic_file,
    atomic_folder,
    open_tensors,
    write_safetensors_folder,
)
from petrun.typing import JsonObject

MEAN, NOISE, COPY = "mean", "noise", "copy"
_TABLES = (
    "wte.weight", "embed_tokens.weight", "word_embeddings.weight", "embed_in.weight", "lm_head.weight", "lm_head.bias", "embed_out.weight",
    "output_layer.weight", "predictions.bias", "decoder.weight", "decoder.bias",
)  # fmt: skip
"""Ends of the names of tensors with a row for each token."""
_STALE = ("vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json")
"""Files beside tokenizer.json that would hold the old vocabulary."""
_MULTIPLE = 64
NEW_ROWS = "new_rows.json"
"""File in a base with appended pieces that says which rows of its tables are theirs."""


@dataclass(frozen=True, kw_only=True)
class ExtendedBase:
    """What was written."""

    tables: tuple[str, ...]
    old_rows: int
    rows: int
    unknown: int
    """Pieces of which the base knew nothing."""


def write_extended(
    base: Path, config: JsonObject, made: ExtendedTokenizer, out: Path, how: str, seed: int
) -> ExtendedBase:
    """Write the base with the longer tokenizer into a new folder.

    `how`: MEAN; NOISE adds normal noise of a tenth of the table's own spread; COPY takes the row of the piece's first token.
    Raises: ModelError for a base that does not state vocab_size; WeightsError where no table fits it; OutputError.
    """
    if not isinstance(config.get("vocab_size"), int):
        raise ModelError(
            f"{base}: config.json has no vocab_size, which would state the new rows",
            hint="A ChatGLM, which has padded_vocab_size, reads its own tokenizer alone: use its successor, glm.",
        )
    reader = open_tensors(weights_path(base))
    old_rows = int(config["vocab_size"])
    tables = tuple(
        name for name in reader.names if name.endswith(_TABLES) and reader.info(name).shape[:1] == (old_rows,)
    )
    if not tables:
        raise WeightsError(
            f"{base}: no table has the {old_rows} rows of config.json's vocab_size", hint="Is this a whole base?"
        )
    others = [name for name in reader.names if name.endswith(_TABLES) and name not in tables]
    if others:
        raise WeightsError(
            f"{base}: {others[0]} has {reader.info(others[0]).shape[0]} rows, and vocab_size is {old_rows}"
        )
    rows = max(old_rows, made.pieces[-1].id + 1)
    if old_rows % _MULTIPLE == 0:
        rows = -(-rows // _MULTIPLE) * _MULTIPLE
    entries = [_entry(reader, name, rows if name in tables else None, made.pieces, how, seed) for name in reader.names]
    with atomic_folder(out) as folder:
        write_companions(folder, {**config, "vocab_size": rows}, base)
        for name in _STALE:
            (folder / name).unlink(missing_ok=True)
        with atomic_file(folder / "tokenizer.json") as (file, _):
            file.write(json.dumps(made.content, ensure_ascii=False, indent=2).encode())
        with atomic_file(folder / NEW_ROWS) as (file, _):
            appended = spell_rows(piece.id for piece in made.pieces)
            file.write((json.dumps({"rows": appended, "vocab_size": rows}) + "\n").encode())
        write_safetensors_folder(folder, entries, {"format": "pt"})
    unknown = sum(not piece.old_ids for piece in made.pieces)
    return ExtendedBase(tables=tables, old_rows=old_rows, rows=rows, unknown=unknown)


def read_new_rows(base: Path) -> str | None:
    """Return the token ids of a base's new rows, spelled as ranges; None for a base that does not name any.

    Raises ModelError for a file that does not read, or that belongs to a table of another size than config.json's.
    """
    path = base / NEW_ROWS
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        size, found = int(content["vocab_size"]), spell_rows(ids_of(str(content["rows"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: does not name the new rows of this base: {error}",
            hint="petrun vocab merge wrote it; name the rows yourself: --train-rows 32000-49952.",
        ) from error
    own = read_model_config(base).get("vocab_size")
    if own != size:
        raise ModelError(
            f"{path}: is of a base with {size} rows, and config.json says {own}",
            hint="Name the rows yourself: --train-rows 32000-49952.",
        )
    return found


def _entry(
    reader: TensorReader, name: str, rows: int | None, pieces: Sequence[NewPiece], how: str, seed: int
) -> TensorEntry:
    info = reader.info(name)
    if rows is None:
        return TensorEntry(name, info.shape, info.dtype, partial(reader.read_raw, name))
    return TensorEntry(
        name, (rows, *info.shape[1:]), info.dtype, partial(_table, reader, name, rows, pieces, how, seed)
    )


def _table(reader: TensorReader, name: str, rows: int, pieces: Sequence[NewPiece], how: str, seed: int) -> Array:
    stored = reader.read(name)
    old = stored.astype(np.float32)
    found = np.zeros((rows, *old.shape[1:]), np.float32)
    found[: len(old)] = old
    found[len(old) :] = old.mean(axis=0)
    for piece, row in zip(pieces, new_rows(old, pieces, how, seed), strict=True):
        found[piece.id] = row
    return found if reader.info(name).dtype == "bfloat16" else found.astype(stored.dtype)


def new_rows(table: Array, pieces: Sequence[NewPiece], how: str, seed: int) -> Array:
    """Return the rows of new pieces: table (V, ...) float32 -> (n, ...) float32."""
    mean = table.mean(axis=0)
    draw = np.random.default_rng(seed)
    found = np.empty((len(pieces), *table.shape[1:]), np.float32)
    for i, piece in enumerate(pieces):
        ids = list(piece.old_ids)
        found[i] = mean if not ids else table[ids[0]] if how == COPY else table[ids].mean(axis=0)
    if how == NOISE:
        found += draw.normal(size=found.shape).astype(np.float32) * (0.1 * float(table.std()))
    return found
