"""Count the tokens of texts with a base's tokenizer, without special tokens and template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from petrun.console import columns
from petrun.curation.statistics import CountTokens
from petrun.data.tokenizers.tokenizer import load_tokenizer
from petrun.errors import DataError


def token_counter(base: str) -> CountTokens:
    """Return a function from texts to their numbers of tokens. Raises DataError for a folder without a tokenizer."""
    tokenizer = load_tokenizer(Path(base).expanduser())
    if tokenizer is None:
        raise DataError(f"--base {base}: the folder holds no tokenizer")

    def count(texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in tokenizer.encode_many(list(texts), special=False).ids]

    return count


def length_table(texts: Mapping[str, Sequence[str]], count: CountTokens, limit: int | None) -> str:
    """Return a table of lengths in tokens, a line for each list of texts; with `limit` also how many texts are longer."""
    rows = [("tokens of a row", "median", "95 %", "longest", *([f"above {limit}"] if limit else []))]
    for name, each in texts.items():
        counts = np.asarray(count(each))
        over = [f"{int((counts > limit).sum()):,}"] if limit else []
        rows.append(
            (name, *(f"{int(np.percentile(counts, q, method='inverted_cdf')):,}" for q in (50, 95, 100)), *over)
        )
    return columns(rows)
