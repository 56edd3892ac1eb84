"""Tables without a header: which column is the label."""

import pytest

from petrun.data.formats.table import read_records
from petrun.errors import DataError
from tests.data.loading import read_examples


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("1\tgood film\n0\tbad film\n", ("label", "text")),
        ("1\tgood film\n0\tbad film\n1\tgreat\n", ("label", "text")),
        ("good film\t1\nbad film\t0\ngreat\t1\n", ("text", "label")),
        ("pos\tgood\nneg\tbad\npos\tfine\nneg\tawful\n", ("label", "text")),
        ("1\t好电影\n0\t坏电影\n", ("label", "text")),
        ("a\t01\nb\t1\nc\t2\n", ("text", "label")),
        ("bad\t0\nbad\t1\n", ("text", "label")),
        # Many rows: what is clearly fewer decides, whatever it looks like.
        ("".join(f"word{i}\tNew {'York' if i % 2 else 'Orleans'}\n" for i in range(20)), ("text", "label")),
        ("".join(f"New {'York' if i % 2 else 'Orleans'}\tword{i}\n" for i in range(20)), ("label", "text")),
    ],
)
@pytest.mark.parametrize("kind", ["tsv", "csv"])
def test_which_column_is_the_label(write, kind, content, columns):
    records = read_records(write(f"a.{kind}", content if kind == "tsv" else content.replace("\t", ",")))
    assert records.columns == columns
    # The unusual order is told.
    assert len(records.notes) == (columns == ("label", "text"))


def test_the_classes_are_not_the_sentences(write, word_piece):
    examples = read_examples(write("a.tsv", "1\tgood film\n0\tbad film\n"), task=None, tokenizer=word_piece, seq_len=16)
    assert (examples.labels, examples.num_labels) == ((), 2) and examples.per_row["label"].tolist() == [1, 0]


@pytest.mark.parametrize("content", ["good\tpos\nbad\tneg\n", "a b\tpos\na b\tneg\nc d\tmixed\n", "1\t0\n0\t1\n"])
def test_both_readings_are_shown(write, content):
    with pytest.raises(
        DataError, match="line 1: no header, and which of the two columns is the label is not clear"
    ) as caught:
        read_records(write("a.tsv", content))
    first, second = content.partition("\n")[0].split("\t")
    assert f"text '{first}' and label '{second}'" in caught.value.message
    assert f"label '{first}' and text '{second}'" in caught.value.message
    named = {"label": "column_1", "text": "column_2"}
    records = read_records(write("a.tsv", content), columns=named)
    assert records.rows[0] == {"column_1": first, "column_2": second}


def test_columns_by_their_place(write, word_piece):
    path = write("a.tsv", "x\tgood film\t1\ny\tbad film\t0\n")
    columns = {"text": "column_2", "label": "column_3"}
    examples = read_examples(path, task=None, tokenizer=word_piece, seq_len=16, columns=columns)
    assert examples.per_row["label"].tolist() == [1, 0]
    with pytest.raises(DataError, match=r"no column 'column_4'"):
        read_examples(path, task=None, tokenizer=word_piece, seq_len=16, columns={"label": "column_4"})
