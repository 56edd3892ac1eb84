"""Labels that are numbers to predict: which columns are, and which rows cannot be used."""

import json

import numpy as np
import pytest

from petrun.data.batches.buckets import BatchSpec
from petrun.data.batches.collate import collate
from petrun.data.batches.rank_share import RankShare, count_rows, read_rank_batches
from petrun.errors import DataError
from tests.data.loading import read_examples


def table(path, labels):
    """A JSONL file of token rows with these labels."""
    path.write_text("".join(json.dumps({"input_ids": [2, 4, 3], "label": label}) + "\n" for label in labels))
    return path


def load(path, **settings):
    return read_examples(path, task="classify", tokenizer=None, seq_len=8, vocab_size=99, **settings)


@pytest.mark.parametrize(
    ("labels", "regression"),
    [
        ([0.5, 1.0, -2.25], True),
        ([1, 0.5], True),
        (["0.5", "1", "-1e-3"], True),
        (["0.5", 2], True),
        ([0, 1, 2], False),
        ([0.0, 1.0], False),
        (["0", "1"], False),
        (["01", "02"], False),
        (["1.0", "2.0", "0.0"], False),
        ([True, False], False),
    ],
)
def test_a_column_with_one_number_that_is_no_integer_is_predicted(tmp_path, labels, regression):
    rows = load(table(tmp_path / "a.jsonl", labels))
    assert rows.is_regression is regression
    assert rows.metrics_of == ("regression" if regression else "classify")
    if regression:
        assert (rows.num_labels, rows.labels) == (1, ())
        np.testing.assert_array_equal(rows.per_row["label"], np.array([float(v) for v in labels], np.float32))


def test_integers_are_predicted_where_that_is_asked_for_or_the_model_does(tmp_path):
    path = table(tmp_path / "a.jsonl", [1, 5, 3])
    for settings in ({"regression": True}, {"num_labels": 1}, {"num_labels": 1, "regression": True}):
        rows = load(path, **settings)
        assert rows.per_row["label"].tolist() == [1.0, 5.0, 3.0]
        assert rows.per_row["label"].dtype == np.float32


def test_the_cache_keeps_numbers(tmp_path):
    path = table(tmp_path / "a.jsonl", [0.1, -100.0])
    first, again = (load(path, cache_dir=tmp_path / "cache") for _ in range(2))
    assert again.is_regression
    assert again.per_row["label"].tolist() == first.per_row["label"].tolist() == [np.float32(0.1), -100.0]
    # -100 is a number to predict here, and counts.
    assert collate(again, BatchSpec(((0,), (1,)), 3), ("input_ids",)).scored == 2


REFUSED = {
    "NaN": ([0.5, float("nan")], {}, "line 2: the label nan is no number that float32 holds"),
    "infinity": ([0.5, float("inf")], {}, "line 2: the label inf is no number"),
    "NaN as text": (["0.5", "nan"], {}, "line 2: the label nan is no number"),
    "beyond float32": ([0.5, 1e39], {}, "line 2: the label 1e+39 is no number that float32 holds"),
    "missing": ([0.5, None], {}, "line 2: the label is missing"),
    "empty": (["0.5", ""], {}, "line 2: the label is missing"),
    "word among decimals": (["0.5", "1.5", "good"], {}, "mixed labels"),
    "word where numbers are asked for": ([1, "good"], {"regression": True}, "line 2: the label 'good' is no number"),
    "true": ([True], {"regression": True}, "line 1: the label 'True' is no number"),
    "list": ([[0.5]], {"regression": True}, "line 1: the label '[0.5]' is no number"),
    "classes for a model of numbers": (["bad", "good"], {"num_labels": 1}, "line 1: the label 'bad' is no number"),
    "numbers for a model of classes": ([1, 0.5], {"num_labels": 3}, "line 2: the label 0.5 is not an integer"),
    "numbers, and classes are asked for": ([1, 0.5], {"regression": False}, "line 2: the label 0.5 is not an integer"),
    "the model has classes": ([1, 0], {"num_labels": 3, "regression": True}, "the model predicts 3 classes"),
    "the model has none": ([1, 0], {"num_labels": 1, "regression": False}, "the model predicts one number"),
    "names for a model of numbers": ([1, 0], {"labels": ("a", "b"), "num_labels": 1}, "data.labels names classes"),
    "names and numbers": ([1, 0], {"labels": ("a", "b"), "regression": True}, "data.labels names classes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path, case):
    labels, settings, message = REFUSED[case]
    with pytest.raises(DataError) as caught:
        load(table(tmp_path / "a.jsonl", labels), **settings)
    assert message in caught.value.message
    assert caught.value.hint


def test_bad_targets_can_be_left_out(tmp_path):
    rows = load(table(tmp_path / "a.jsonl", [0.5, float("nan"), 1.5, None]), on_bad_row="skip")
    assert rows.per_row["label"].tolist() == [0.5, 1.5]
    assert len(rows.skipped) == 2


def test_arrays(tmp_path):
    x = np.zeros((3, 2), np.float32)
    np.savez(tmp_path / "a.npz", x=x, label=np.array([[0.5], [1.0], [2.0]], np.float64))
    rows = read_examples(tmp_path / "a.npz", task="classify", tokenizer=None, seq_len=8)
    assert rows.is_regression and rows.num_labels == 1
    np.savez(tmp_path / "b.npz", x=x, label=np.array([0.5, np.nan, 2.0]))
    with pytest.raises(DataError, match="row 2: the label nan is no number"):
        read_examples(tmp_path / "b.npz", task="classify", tokenizer=None, seq_len=8)


def test_a_rank_without_rows_scores_nothing(tmp_path):
    rows = load(table(tmp_path / "a.jsonl", [0.5, 1.5, 2.5]))
    plan = [BatchSpec(((0,),), 3)]
    shares = [
        next(read_rank_batches(rows, plan, RankShare(index=i, parts=2), count_rows(rows), ("input_ids",)))
        for i in range(2)
    ]
    assert [share.scored for share in shares] == [1, 1]
    assert sorted(np.isnan(share.batch.targets).tolist() for share in shares) == [[False], [True]]
