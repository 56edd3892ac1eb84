"""Rows that cannot be used among others: named, up to twenty, or left out and written down."""

import json

import numpy as np
import pytest

from petrun.errors import DataError
from tests.data.loading import read_examples

GOOD, NO_LABEL = {"text": "good film", "label": 1}, {"text": "a film"}
BAD = [
    NO_LABEL,
    {"text": "x", "label": None},
    {"text": "x", "label": " "},
    {"text": None, "label": 1},
    {"text": 3, "label": 0},
]


def load(path, tokenizer, **given):
    return read_examples(path, **{"task": None, "tokenizer": tokenizer, "seq_len": 48, **given})


def mixed(bad, good, often):
    """A bad row after every `often` good ones: the rows, and the numbers of the good ones."""
    rows = []
    for row in bad:
        rows += [good] * often + [row]
    return rows, [i for i in range(len(rows)) if i % (often + 1) != often]


def test_all_are_named(write, word_piece):
    rows, _ = mixed(BAD, GOOD, 3)
    path = write("a.jsonl", rows)
    with pytest.raises(DataError, match=r"^5 rows cannot be used:") as caught:
        load(path, word_piece)
    assert [line.strip() for line in caught.value.message.split("\n")[1:]] == [
        f"{path}, line 4: no column 'label'",
        f"{path}, line 8: the label is missing",
        f"{path}, line 12: the label is missing",
        f"{path}, line 16: column 'text' is empty (null)",
        f"{path}, line 20: column 'text' is the number 3, expected text",
    ]
    assert "--on-bad-row skip" in caught.value.hint


def test_twenty_are_named(write, word_piece):
    rows, _ = mixed([NO_LABEL] * 30, GOOD, 1)
    with pytest.raises(DataError, match=r"^20 rows, and perhaps more, cannot be used:") as caught:
        load(write("a.jsonl", rows), word_piece)
    assert len(caught.value.message.split("\n")) == 21


def test_they_are_left_out(write, word_piece, tmp_path):
    rows, good = mixed(BAD, GOOD, 3)
    path = write("a.jsonl", rows)
    found = load(path, word_piece, on_bad_row="skip", cache_dir=tmp_path / "cache")
    assert len(found) == 15 and found.per_row["row"].tolist() == good and found.where(3) == f"{path}, line 5"
    assert (found.stats.read, found.stats.used, found.stats.bad) == (20, 15, 5)
    skipped = [json.loads(line) for line in found.skipped]
    assert [(item["file"], item["line"], item["row"]) for item in skipped] == [
        (str(path), 4 * i + 4, row) for i, row in enumerate(BAD)
    ]
    assert skipped[1]["problem"] == f"{path}, line 8: the label is missing"
    alone = load(write("b.jsonl", [GOOD] * 15), word_piece)
    assert found.flat["input_ids"].tolist() == alone.flat["input_ids"].tolist()
    assert found.per_row["label"].tolist() == alone.per_row["label"].tolist()
    again = load(path, word_piece, on_bad_row="skip", cache_dir=tmp_path / "cache")
    assert again.skipped == found.skipped and again.stats == found.stats


@pytest.mark.parametrize(
    ("good", "bad", "given"),
    [
        ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": None}, {}),
        ({"prompt": "a", "completion": "b"}, {"prompt": 7, "completion": "b"}, {"for_generation": True}),
        ({"text": "the dog"}, {"text": ["the dog"]}, {"task": "lm"}),
        ({"input_ids": [5, 6], "labels": [5, 6]}, {"input_ids": [5, -6], "labels": [5, 6]}, {"task": "lm"}),
        ({"input_ids": [5, 6], "label": 1}, {"input_ids": [5, 6]}, {"task": "classify"}),
    ],
)
def test_rows_of_every_kind(write, bpe, good, bad, given):
    rows, numbers = mixed([bad] * 3, good, 4)
    path = write("a.jsonl", rows)
    with pytest.raises(DataError, match=r"^3 rows cannot be used:"):
        load(path, bpe, **given)
    found = load(path, bpe, on_bad_row="skip", **given)
    assert found.per_row["row"].tolist() == numbers and len(found.skipped) == 3


def test_conversations(write, chat):
    good = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}
    bad = {"messages": [{"role": "usr", "content": "hi"}]}
    path = write("a.jsonl", [good, bad, good])
    with pytest.raises(DataError, match=r"line 2.*unknown role 'usr'") as caught:
        load(path, chat)
    assert "--on-bad-row skip" in caught.value.hint
    assert load(path, chat, on_bad_row="skip").per_row["row"].tolist() == [0, 2]


def test_two_files(write, word_piece):
    first, second = write("a.jsonl", [NO_LABEL, GOOD]), write("b.csv", "text,label\na,0\nb,\nc,1\n")
    found = load([first, second], word_piece, on_bad_row="skip", weights=(2, 1))
    assert np.unique(found.per_row["row"]).tolist() == [1, 2, 4] and len(found) == 4
    assert [json.loads(line)["line"] for line in found.skipped] == [1, 3]


def test_nothing_but_bad_rows(write, word_piece):
    with pytest.raises(DataError, match=r"^no row can be used\n2 rows cannot be used:"):
        load(write("a.jsonl", [NO_LABEL, NO_LABEL | {"label": None}]), word_piece, on_bad_row="skip")


def test_predicting_needs_no_labels(write, word_piece):
    assert len(load(write("a.jsonl", [GOOD, NO_LABEL]), word_piece, need_target=False)) == 2
