"""Encode rows for an encoder-decoder: the prompt is the source, the completion the target.

Each is a text of its own, with the special tokens that the tokenizer puts around it and cut to the limit behind them, as transformers'
`tokenizer(prompt, text_target=completion, truncation=True)`. A row is the source and then the target behind the token that begins every
target; mask 1 and 2 tell them apart. For generation a row is the source alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from petrun.data.encode.file_rows import FileRows
from petrun.data.encode.instruct import segments_of_row
from petrun.data.encode.segments import EncodeSettings
from petrun.data.encode.tokens import check_ids, read_aligned, read_integers
from petrun.data.examples.collector import ExampleCollector, TokenizedRow
from petrun.data.examples.example_set import IGNORED
from petrun.data.formats.records import Array
from petrun.data.settings import ExampleSettings
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.errors import DataError


def encode_sources(rows: FileRows, settings: EncodeSettings, out: ExampleCollector) -> None:
    """Encode the rows of instruct, whose template is no chat template."""
    assert settings.decoder_start is not None
    found = [segments_of_row(rows, i, settings, None) for i in range(len(rows))]
    tokenizer, limit = settings.tokenizer, settings.limit
    sources = tokenizer.encode_many([segments[0].text for segments, _ in found], longest=limit)
    targets = tokenizer.encode_many([completion or "" for _, completion in found], longest=limit)
    for i, (_, completion) in enumerate(found):
        out.several_references += rows.has_several_references(i)
        out.counts["empty"] += completion is not None and not completion.strip()
        source, was_cut = sources.ids[i], sources.cut[i]
        if not source:
            raise DataError(f"{rows.where(i)}: the prompt is empty")
        if settings.generation:
            row = TokenizedRow(
                ids=source,
                origin=rows.origin(i),
                prompt_length=len(source),
                reference=completion,
                other_references=rows.other_references(i),
            )
            out.add(row, was_cut=was_cut)
            continue
        target = [] if completion is None else _ended(targets.ids[i], tokenizer, limit)
        row = _joined(rows, i, source, target, settings.decoder_start, completion)
        out.add(row, was_cut=was_cut or (completion is not None and targets.cut[i]))


def _ended(ids: list[int], tokenizer: Tokenizer, limit: int) -> list[int]:
    """Return a target with its end, where the tokenizer puts none behind a text."""
    end = tokenizer.eos_id
    return ids if end is None or ids[-1:] == [end] else [*ids[: limit - 1], end]


def _joined(
    rows: FileRows, i: int, source: Sequence[int], target: Sequence[int], start: int, reference: str | None
) -> TokenizedRow:
    count = len(source)
    return TokenizedRow(
        ids=[*source, start, *target],
        labels=[*[IGNORED] * (count + 1), *target],
        mask=np.repeat(np.array([1, 2], np.int32), [count, 1 + len(target)]),
        origin=rows.origin(i),
        prompt_length=count,
        reference=reference,
    )


def encode_token_sources(
    rows: FileRows, settings: ExampleSettings, tokenizer: Tokenizer | None, out: ExampleCollector
) -> None:
    """Encode rows that are tokenised already: {input_ids, attention_mask, labels}, the labels a target of any length.

    Raises DataError naming line and column.
    """
    assert settings.decoder_start is not None
    records, schema, limit = rows.records, rows.schema, settings.seq_len
    for i in range(len(rows)):
        row = records.rows[i] if records.rows else {name: array[i] for name, array in records.arrays.items()}
        where = rows.where(i)
        ids = read_integers(row, schema.columns["input_ids"], where)
        check_ids(ids, "input_ids", where, settings.vocab_size)
        mask = read_aligned(row, schema, "attention_mask", where, len(ids), 1)
        source = ids if mask is None else ids[mask == 1]
        if not len(source):
            raise DataError(f"{where}: the source holds no tokens")
        column, target = schema.columns.get("label"), np.zeros(0, np.int64)
        if column is not None and row.get(column) is not None:
            target = _target(read_integers(row, column, where), column, where)
            check_ids(target, column, where, settings.vocab_size)
        elif settings.need_target:
            raise DataError(f"{where}: has no labels", hint="Of an encoder-decoder, labels are the ids of the target.")
        text = tokenizer.decode(target.tolist()) if tokenizer is not None and len(target) else None
        cut = len(source) > limit or len(target) > limit
        source, target = source[:limit], target[:limit]
        if settings.for_generation:
            whole = TokenizedRow(ids=source, origin=rows.origin(i), prompt_length=len(source), reference=text)
        else:
            whole = _joined(rows, i, source.tolist(), target.tolist(), settings.decoder_start, text)
        out.add(whole, was_cut=cut)


def _target(labels: Array, column: str, where: str) -> Array:
    """Return the labels without the padding behind them. Raises DataError."""
    scored = np.flatnonzero(labels != IGNORED)
    target = labels[: scored[-1] + 1] if len(scored) else labels[:0]
    if (target == IGNORED).any():
        raise DataError(
            f"{where}: {column} holds -100 before its last token",
            hint="Of a target, -100 stands for the padding behind it alone.",
        )
    return target
