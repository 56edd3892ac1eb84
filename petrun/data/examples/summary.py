"""Describe a data set in one line: rows, tokens and what is supervised."""

from __future__ import annotations

from collections.abc import Mapping

from petrun.data.examples.example_set import ExampleSet
from petrun.data.tasks import TOKENS
from petrun.data.tokenizers.unknown import MUCH


def data_line(rows: ExampleSet) -> str:
    """Return the line: rows read, used and truncated; tokens; what is supervised."""
    stats = rows.stats
    parts = [f"{len(rows):,} rows for {rows.task}" + (f" of {stats.read:,} read" if stats.read != len(rows) else "")]
    if stats.cut:
        parts.append(
            f"{stats.cut:,} cut"
            + (f" ({stats.completion_gone:,} lost their completion)" if stats.completion_gone else "")
        )
    if stats.bad:
        parts.append(f"{stats.bad:,} that cannot be used left out")
    if stats.empty:
        parts.append(f"{stats.empty:,} empty")
    if rows.is_regression:
        low, high = rows.per_row["label"].min(), rows.per_row["label"].max()
        parts.append(f"regression, targets from {low:.6g} to {high:.6g}")
    elif rows.num_labels:
        names = f": {', '.join(rows.labels[:8])}{', ...' if len(rows.labels) > 8 else ''}" if rows.labels else ""
        parts.append(f"{rows.num_labels} classes{names}")
    if stats.tokens:
        parts.append(f"{stats.tokens:,} tokens" + (f" ({stats.unknown:,} unknown)" if stats.unknown else ""))
        if rows.task == TOKENS:
            parts.append(f"{stats.supervised:,} with a tag")
        elif rows.task != "classify":
            parts.append(
                f"{stats.supervised / stats.tokens:.0%} supervised, end of text in {stats.eos_supervised:,} rows"
            )
    return ", ".join(parts)


def unknown_line(sets: Mapping[str, ExampleSet | None]) -> str:
    """Return a warning where more than 1 % of the tokens stand for text that the tokenizer does not know."""
    parts = []
    for name, rows in sets.items():
        if rows is not None and rows.stats.unknown > MUCH * rows.stats.tokens:
            share = rows.stats.unknown / max(1, rows.stats.tokens)
            such = ", ".join(map(repr, rows.unknown_texts))
            parts.append(
                f"{share:.1%} of the tokens of {name} are unknown to the tokenizer{f': {such}' if such else ''}"
            )
    return f"{'; '.join(parts)}. Their text is lost: take a base whose tokenizer knows it" if parts else ""
