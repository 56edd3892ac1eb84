"""The question and the answer of rows of every kind."""

import pytest

from petrun.curation.parts import PartReader, RowParts
from petrun.errors import ConfigError, DataError
from tests.curation.rows import MIXED, row


def test_every_kind_has_a_question_and_an_answer():
    reader = PartReader()
    assert [reader(row(cells)) for cells in MIXED] == [
        RowParts(question="Say hi", answer="Hi!"),
        RowParts(question="Add\n1 2", answer="3"),
        RowParts(question="x?", answer="y"),
        RowParts(question="Be short.\n你好", answer="很好"),
        RowParts(question="a\nb\nc", answer="d"),
    ]
    assert reader(row({"text": "plain"})) == RowParts(question="", answer="plain")
    assert reader(row({"text": "a film", "label": 1})) == RowParts(question="a film", answer="1")
    assert reader(row({"prompt": "alone"})) == RowParts(question="alone", answer="")


def test_empty_cells_do_not_say_what_a_row_is():
    """Given a CSV of rows of different forms, which fills up every row with empty cells, each is read as what it is."""
    assert PartReader()(row({"messages": "", "prompt": "q", "completion": "a"})) == RowParts(question="q", answer="a")


def test_the_sides_of_a_translation_are_named():
    reader = PartReader(source="translation.en", target="translation.zh")
    assert reader(row({"translation": {"en": "hi", "zh": "你好"}})) == RowParts(question="hi", answer="你好")
    with pytest.raises(DataError, match=r"rows\.jsonl, line 3: no column 'translation\.en'"):
        reader(row({"translation": {"de": "hallo", "zh": "你好"}}, line=3))
    with pytest.raises(ConfigError, match="--source and --target belong together"):
        PartReader(source="en")


def test_rows_without_text_are_refused_by_line():
    for cells in ({"a": 1}, {"input_ids": [1, 2]}, {"prompt": 3, "completion": "x"}, {"messages": "x"}):
        with pytest.raises(DataError, match=r"^rows\.jsonl, line 4"):
            PartReader()(row(cells, line=4))


def test_rows_of_preference_differ_by_their_rejected_answers():
    read = PartReader()
    one, other = (read(row({"prompt": "q", "chosen": "a", "rejected": text})) for text in "bc")
    assert one == RowParts(question="q", answer="a", rejected="b") and one.text == "q\na\nb" != other.text
    assert read(row({"chosen": "q a", "rejected": "q b"})) == RowParts(question="q", answer=" a", rejected=" b")
    asked = {"role": "user", "content": "q"}
    answers = [[asked, {"role": "assistant", "content": text}] for text in "ab"]
    assert read(row({"chosen": answers[0], "rejected": answers[1]})) == one
    with pytest.raises(DataError, match="no prompt"):
        read(row({"chosen": "a", "rejected": "b"}))
