"""Encode rows with two answers to one prompt, the chosen answer preferred to the rejected one; or with one answer, desirable or not.

A row with one answer becomes one sequence, beside which petrun/data/examples/mismatched.py sets another.
A pair becomes two sequences in one, the prompt with each answer, between which there is no attention; each is truncated by itself.
Columns: prompt (or question, or messages), chosen, rejected. Or chosen and rejected are two conversations or two texts: what they have in
common at their beginning is then the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from petrun.data.chat.messages import is_conversation, read_messages
from petrun.data.encode.file_rows import FileRows
from petrun.data.encode.instruct import tokenized_rows
from petrun.data.encode.segments import EncodeSettings
from petrun.data.examples.collector import ExampleCollector, TokenizedRow
from petrun.data.examples.example_set import IGNORED
from petrun.data.formats.records import Array
from petrun.data.rows.columns import RowSchema
from petrun.data.rows.labels import read_true_or_false
from petrun.errors import DataError
from petrun.typing import JsonObject


def encode_preference(rows: FileRows, settings: EncodeSettings, out: ExampleCollector) -> None:
    """Encode the rows of preference.

    Raises: DataError for a row with the same answer twice, which prefers nothing, and for a label that is neither true nor false.
    """
    if rows.schema.has("label"):
        _encode_unpaired(rows, settings, out)
    else:
        _encode_pairs(rows, settings, out)


def _encode_unpaired(rows: FileRows, settings: EncodeSettings, out: ExampleCollector) -> None:
    label, completion = rows.schema.columns["label"], "completion" if rows.schema.kind.conversation else "target"
    for i, cells in enumerate(rows.records.rows):
        read_true_or_false(cells.get(label), label, rows.where(i))
        if not rows.schema.kind.conversation:
            rows.text(i, rows.schema.columns[completion])
    for row in tokenized_rows(rows, settings, out):
        ids, labels = np.asarray(row.ids, np.int32), np.asarray(row.labels, np.int32)
        kept = labels[: settings.limit]
        out.counts["completion_gone"] += _scored(labels) and not _scored(kept)
        cut = replace(row, ids=ids[: settings.limit], labels=kept, prompt_length=min(row.prompt_length, len(kept)))
        out.add(cut, was_cut=len(ids) > settings.limit)


def _encode_pairs(rows: FileRows, settings: EncodeSettings, out: ExampleCollector) -> None:
    if not rows.schema.kind.conversation:
        for i in range(len(rows)):
            for name in ("target", "rejected"):
                # A list would be several references, of which there is none here.
                rows.text(i, rows.schema.columns[name])
    answers = (tokenized_rows(_answered(rows, name), settings, out) for name in ("target", "rejected"))
    for i, (chosen, rejected) in enumerate(zip(*answers, strict=True)):
        if list(chosen.ids) == list(rejected.ids):
            raise DataError(
                f"{rows.where(i)}: the chosen and the rejected answer are the same", hint="Such a row prefers nothing."
            )
        _add(out, chosen, rejected, settings.limit)


def _add(out: ExampleCollector, chosen: TokenizedRow, rejected: TokenizedRow, limit: int) -> None:
    parts = [(np.asarray(row.ids, np.int32), np.asarray(row.labels, np.int32)) for row in (chosen, rejected)]
    kept = [(ids[:limit], labels[:limit]) for ids, labels in parts]
    gone = any(_scored(before) and not _scored(after) for (_, before), (_, after) in zip(parts, kept, strict=True))
    if np.array_equal(kept[0][0], kept[1][0]):
        # The answers differ behind the cut alone: what is left prefers nothing, and is to count for nothing.
        gone, kept = True, [(ids, np.full_like(labels, IGNORED)) for ids, labels in kept]
    out.counts["completion_gone"] += gone
    pair = replace(
        chosen,
        ids=np.concatenate([ids for ids, _ in kept]),
        labels=np.concatenate([labels for _, labels in kept]),
        mask=np.concatenate([np.full(len(ids), sequence, np.int32) for sequence, (ids, _) in enumerate(kept, 1)]),
        prompt_length=min(chosen.prompt_length, len(kept[0][0])),
    )
    out.add(pair, was_cut=any(len(ids) > limit for ids, _ in parts))


def _scored(labels: Array) -> bool:
    return bool((labels[1:] != IGNORED).any())


def _answered(rows: FileRows, name: str) -> FileRows:
    """Return the rows with one of their answers as the completion."""
    columns = dict(rows.schema.columns)
    completion = "completion" if rows.schema.kind.conversation else "target"
    answer = {"target": columns.pop(completion), "rejected": columns.pop("rejected")}[name]
    return replace(rows, schema=RowSchema(rows.schema.kind, {**columns, completion: answer}))


def with_prompts(rows: FileRows) -> FileRows:
    """Return the rows with their prompts in a column of their own, where the answers hold them."""
    schema = with_prompt_column(rows.schema)
    split = [prompt_cells(row, schema, rows.where(i)) for i, row in enumerate(rows.records.rows)]
    if all(part is None for part in split):
        return rows
    found = [row if part is None else {**row, **part} for row, part in zip(rows.records.rows, split, strict=True)]
    return replace(rows, records=replace(rows.records, rows=found), schema=schema)


def with_prompt_column(schema: RowSchema) -> RowSchema:
    """Return the schema of rows of preference with a column for the prompt, which the answers may hold instead."""
    name = "prompt" if schema.kind.conversation else "source"
    return RowSchema(schema.kind, {**schema.columns, name: schema.columns.get(name, "prompt")})


def prompt_cells(row: Mapping[str, object], schema: RowSchema, where: str) -> JsonObject | None:
    """Split the answers of a row into prompt and answers, as cells; None where they hold no prompt.

    Of conversations the prompt is the messages that both begin with; of texts, what both begin with up to the white space before they
    differ. trl's extract_prompt cuts texts where they differ, be it within a word.
    Inputs: `schema`, as `with_prompt_column` returns it. Raises: DataError for a row without a prompt.
    """
    names = ("prompt", "completion") if schema.kind.conversation else ("source", "target")
    prompt, chosen, rejected = (schema.columns[name] for name in (*names, "rejected"))
    first, second = row.get(chosen), row.get(rejected)
    common = 0
    if is_conversation(first) and is_conversation(second):
        first, second = read_messages(first, where, chosen), read_messages(second, where, rejected)
        common = next((k for k, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
        # An assistant's own last message is an answer even where both begin with it.
        common = 0 if is_conversation(row.get(prompt)) else min(common, len(first) - 1, len(second) - 1)
    elif isinstance(first, str) and isinstance(second, str) and row.get(prompt) is None:
        common = _shared_words(first, second)
    if common and isinstance(first, str | list) and isinstance(second, str | list):
        return {prompt: first[:common], chosen: first[common:], rejected: second[common:]}
    if row.get(prompt) is None:
        raise DataError(
            f"{where}: no prompt: {chosen} and {rejected} do not begin alike",
            hint="Give a column `prompt`, or conversations or texts of which only the end differs.",
        )
    return None


def _shared_words(first: str, second: str) -> int:
    """Count the characters that both texts begin with, without a last word, and the white space before it, which may be an answer's."""
    shorter = min(len(first), len(second))
    common = next((k for k, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), shorter)
    spaces = list(re.finditer(r"\s+", first[:common]))
    return spaces[-1].start() if spaces else common if common < shorter else 0
