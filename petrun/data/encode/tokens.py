"""Read rows that are tokenised already: {input_ids, attention_mask, token_type_ids, label | labels}.

Length and mask are kept: positions with attention_mask 0, left or right, stay and are never scored.
"""

from __future__ import annotations

import numpy as np

from petrun.data.encode.file_rows import FileRows
from petrun.data.examples.collector import ExampleCollector, TokenizedRow
from petrun.data.examples.example_set import IGNORED
from petrun.data.formats.records import Array
from petrun.data.rows.columns import RowSchema
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.errors import DataError
from petrun.typing import JsonObject


def encode_tokens(
    rows: FileRows,
    out: ExampleCollector,
    *,
    classify: bool,
    need_target: bool,
    generation: bool,
    vocab_size: int | None,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Check and append every row. For generation, the prompt is the part before the first scored label.

    Raises: DataError naming line and column.
    """
    records, schema = rows.records, rows.schema
    for i in range(len(rows)):
        row = records.rows[i] if records.rows else {name: array[i] for name, array in records.arrays.items()}
        where = records.where(i)
        ids = read_integers(row, schema.columns["input_ids"], where)
        if not len(ids):
            raise DataError(f"{where}: input_ids is empty")
        check_ids(ids, "input_ids", where, vocab_size)
        mask = read_aligned(row, schema, "attention_mask", where, len(ids), 1)
        types = read_aligned(row, schema, "token_type_ids", where, len(ids), None)
        if mask is not None and not mask.any():
            raise DataError(f"{where}: attention_mask is 0 everywhere, so the row holds no tokens")
        labels = None
        if not classify:
            labels = _token_labels(row, schema, where, ids, mask, need_target or generation, vocab_size)
        found = TokenizedRow(
            ids=ids,
            origin=rows.origin(i),
            labels=labels,
            types=types,
            mask=mask,
            prompt_length=_first_scored(labels),
        )
        if generation:
            out.add(_as_prompt(found, ids, labels, tokenizer), from_left=True)
        else:
            out.add(found)


def _first_scored(labels: Array | None) -> int:
    scored = np.flatnonzero(labels != IGNORED) if labels is not None else np.zeros(0, np.int64)
    return int(scored[0]) if len(scored) else 0


def _as_prompt(row: TokenizedRow, ids: Array, labels: Array | None, tokenizer: Tokenizer | None) -> TokenizedRow:
    """Return the row without padding, up to its first scored label: a prompt must end with its last token. Labels are the reference."""
    end, mask = row.prompt_length, row.mask
    reference = None
    if end and labels is not None and tokenizer is not None:
        reference = tokenizer.decode(labels[labels != IGNORED].tolist())
    kept = np.arange(len(ids)) < (end or len(ids))
    if mask is not None:
        kept &= mask == 1
    if not kept.any():
        kept = np.ones(len(ids), bool) if mask is None else mask == 1
    return TokenizedRow(ids=ids[kept], origin=row.origin, prompt_length=int(kept.sum()), reference=reference)


def _token_labels(
    row: JsonObject,
    schema: RowSchema,
    where: str,
    ids: Array,
    mask: Array | None,
    need_target: bool,
    vocab_size: int | None,
) -> Array:
    """Read the labels, aligned with input_ids; without a label column every token is scored (lm)."""
    column = schema.columns.get("label")
    if column is None or row.get(column) is None or not need_target:
        labels = ids.copy()
    else:
        if np.ndim(row[column]) == 0:
            raise DataError(
                f"{where}: column '{column}' is {row[column]!r}; a decoder's labels are a list as long as input_ids",
                hint="An int is a class: --task classify.",
            )
        labels = read_integers(row, column, where)
        if len(labels) != len(ids):
            raise DataError(
                f"{where}: {len(labels)} labels for {len(ids)} input_ids",
                hint="Labels are aligned with input_ids, not shifted; -100 is ignored.",
            )
        check_ids(labels[labels != IGNORED], column, where, vocab_size)
    if mask is not None:
        labels = np.where(mask == 1, labels, IGNORED)
    return labels.astype(np.int32)


def read_aligned(
    row: JsonObject, schema: RowSchema, name: str, where: str, length: int, largest: int | None
) -> Array | None:
    """Read a column as long as input_ids with entries from 0 to `largest`; None where the row has none."""
    if not schema.has(name) or row.get(schema.columns[name]) is None:
        return None
    values = read_integers(row, schema.columns[name], where)
    if len(values) != length:
        raise DataError(f"{where}: {name} has {len(values)} entries, input_ids {length}")
    if (values < 0).any() or (largest is not None and (values > largest).any()):
        raise DataError(f"{where}: {name} holds {values[(values < 0) | (values > (largest or 0))][0]}, expected 0 or 1")
    return values


def read_integers(row: JsonObject, column: str, where: str) -> Array:
    """Read a column of integers, (t,) int64. Raises DataError."""
    value = row.get(column)
    if value is None:
        raise DataError(f"{where}: no column '{column}'", hint=f"Columns of this row: {', '.join(row)}")
    if not isinstance(value, list | tuple | np.ndarray):
        raise DataError(f"{where}: column '{column}' is {type(value).__name__}, expected a list of integers")
    if isinstance(value, np.ndarray):
        if value.ndim != 1 or value.dtype.kind not in "iu":
            raise DataError(
                f"{where}: array '{column}' must hold one row of integers, found {value.dtype} of shape {value.shape}"
            )
        return value.astype(np.int64)
    if not set(map(type, value)) <= {int}:
        position, item = next((k, item) for k, item in enumerate(value) if type(item) is not int)
        raise DataError(f"{where}: column '{column}' holds {item!r} at position {position}, expected integers")
    if value and not -(2**31) <= min(value) <= max(value) < 2**31:
        raise DataError(f"{where}: column '{column}' holds integers that do not fit 32 bits")
    return np.array(value, np.int64)


def check_ids(ids: Array, column: str, where: str, vocab_size: int | None) -> None:
    """Raises DataError for an id outside the vocabulary."""
    if not len(ids):
        return
    if int(ids.min()) < 0:
        hint = (
            "In labels, -100 marks tokens that are not scored; no other negative number has a meaning."
            if column != "input_ids"
            else ""
        )
        raise DataError(f"{where}: {column} holds the negative id {int(ids.min())}", hint=hint)
    if vocab_size is not None and int(ids.max()) >= vocab_size:
        raise DataError(
            f"{where}: {column} holds the id {int(ids.max())}, but the model's vocabulary has {vocab_size} entries",
            hint="The rows were tokenised for another model.",
        )
