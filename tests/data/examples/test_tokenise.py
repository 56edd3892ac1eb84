"""Rows that are tokenised chunk by chunk, on two threads."""

import numpy as np
import pytest

from petrun.data.examples import array_store
from petrun.data.formats import json_lines
from petrun.errors import DataError
from tests.data.loading import read_examples

TEXTS = [("the quick brown fox " * (n % 9) + "é☃x"[n % 3]) for n in range(60)]
KINDS = {
    "lm": [{"text": text} for text in TEXTS],
    "classify": [{"text": text, "label": n % 3} for n, text in enumerate(TEXTS)],
    "instruct": [{"prompt": text, "completion": [text[:9] or "!", "b"] if n > 40 else text[::-1]} for n, text in enumerate(TEXTS)],
    "tokens": [{"input_ids": [n, 1, 2, 3], **({"attention_mask": [0, 1, 1, 1], "token_type_ids": [0, 0, 1, 1]} if n > 30 else {})}
               for n in range(60)],
}  # fmt: skip


def same(a, b):
    assert a.stats == b.stats and a.notes == b.notes and a.references == b.references and a.kind == b.kind
    assert a.other_references == b.other_references and a.flat.keys() == b.flat.keys()
    np.testing.assert_array_equal(a.offsets, b.offsets)
    for part, other in ((a.flat, b.flat), (a.per_row, b.per_row)):
        for name in part:
            np.testing.assert_array_equal(part[name], other[name])
            assert part[name].dtype == other[name].dtype


@pytest.mark.parametrize(
    "kind, generation", [*((kind, False) for kind in KINDS), ("lm", True), ("instruct", True), ("tokens", True)]
)
def test_chunks_give_what_all_rows_at_once_give(write, bpe, tmp_path, monkeypatch, kind, generation):
    """With 9 rows a chunk, in memory, in files and from the cache; rows of 20 tokens are cut."""
    path = write("a.jsonl", KINDS[kind])
    given = {"task": "lm" if kind == "tokens" else kind, "tokenizer": bpe, "seq_len": 20, "for_generation": generation}
    whole = read_examples(path, **given)
    told = []
    monkeypatch.setattr(json_lines, "_CHUNK_ROWS", 9)
    same(read_examples(path, **given, progress=lambda *done: told.append(done)), whole)
    assert told == [(min(9 * k, 60), 60) for k in range(1, 8)]
    monkeypatch.setattr(array_store, "_HELD_BYTES", 64)
    for _ in range(2):
        same(read_examples(path, **given, cache_dir=tmp_path / "cache"), whole)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_first_bad_row_is_named(write, bpe, monkeypatch):
    monkeypatch.setattr(json_lines, "_CHUNK_ROWS", 4)
    rows = [{"text": "a"} for _ in range(50)]
    rows[23] = {"text": 5}
    path = write("a.jsonl", rows)
    with pytest.raises(DataError, match=r"a.jsonl, line 24: column 'text' is the number 5"):
        read_examples(path, task="lm", tokenizer=bpe, seq_len=8)
    rows[37] = {"text": None}
    found = read_examples(write("a.jsonl", rows), task="lm", tokenizer=bpe, seq_len=8, on_bad_row="skip")
    assert found.per_row["row"].tolist() == [i for i in range(50) if i not in (23, 37)] and found.stats.bad == 2
