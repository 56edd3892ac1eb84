"""Encode rows with two answers to one prompt: the chosen answer is preferred to the rejected one.

A row becomes two sequences in one, the prompt with each answer, between which there is no attention; each is truncated by itself.
Columns: prompt (or question, or messages), chosen, rejected. Or chosen and rejected are two conversations: what they have in common at
their beginning is then the prompt.
"""

from __future__ import annotations

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
from petrun.errors import DataError
from petrun.typing import JsonObject


def encode_preference(rows: FileRows, settings: EncodeSettings, out: ExampleCollector) -> None:
    """Encode the rows of preference. Raises DataError for a row with the same answer twice, which prefers nothing."""
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
    """Return the rows with their prompts in a column of their own, where the answers are conversations that hold it."""
    if not rows.schema.kind.conversation:
        return rows
    columns = rows.schema.columns
    split = [_split(rows, i, columns["completion"], columns["rejected"]) for i in range(len(rows))]
    if all(part is None for part in split):
        return rows
    found = [row if part is None else {**row, **part} for row, part in zip(rows.records.rows, split, strict=True)]
    schema = RowSchema(rows.schema.kind, {**columns, "prompt": columns.get("prompt", "prompt")})
    return replace(rows, records=replace(rows.records, rows=found), schema=schema)


def _split(rows: FileRows, i: int, chosen: str, rejected: str) -> JsonObject | None:
    """Split the answers of row i into prompt and answers, as cells; None where they hold no prompt.

    Raises: DataError for a row without a prompt.
    """
    row, where, prompt = rows.records.rows[i], rows.where(i), rows.schema.columns.get("prompt", "prompt")
    answers = [row.get(chosen), row.get(rejected)]
    if all(is_conversation(answer) for answer in answers):
        first, second = (
            read_messages(answer, where, name) for answer, name in zip(answers, (chosen, rejected), strict=True)
        )
        common = next((k for k, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
        # An assistant's own last message is an answer even where both begin with it.
        common = min(common, len(first) - 1, len(second) - 1)
        if common and not is_conversation(row.get(prompt)):
            return {prompt: first[:common], chosen: first[common:], rejected: second[common:]}
    if row.get(prompt) is None:
        raise DataError(
            f"{where}: no prompt: {chosen} and {rejected} do not begin with the same messages",
            hint="Give a column `prompt`, or conversations of which only the end differs.",
        )
    return None
