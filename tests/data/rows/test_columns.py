"""Columns -> the kind of a row and the task it stands for."""

import pytest

from petrun.data.rows.columns import choose_schema, infer_task, mapped
from petrun.errors import ConfigError, DataError

ALL = ("classify", "lm", "instruct")


@pytest.mark.parametrize(
    ("columns", "task", "kind"),
    [
        ("text label", "classify", "text"),
        ("sentence labels id", "classify", "text"),
        ("text", "lm", "text"),
        ("text text_pair label", "classify", "pair"),
        ("sentence1 sentence2 label idx", "classify", "pair"),
        ("premise hypothesis label", "classify", "pair"),
        ("question1 question2 label", "classify", "pair"),
        ("question sentence label", "classify", "pair"),
        ("prompt completion", "instruct", "completion"),
        ("prompt response", "instruct", "completion"),
        ("instruction input output", "instruct", "instruction"),
        ("instruction output", "instruct", "instruction"),
        ("input reference", "instruct", "reference"),
        ("input output", "instruct", "reference"),
        ("question answer", "instruct", "reference"),
        ("messages", "instruct", "chat"),
        ("text prompt completion", "instruct", "completion"),
    ],
)
def test_tasks_and_kinds(columns, task, kind):
    names = mapped(columns.split(), {}, "f")
    assert infer_task(names, ALL) == task
    assert choose_schema(names, task, "f").kind.name == kind


@pytest.mark.parametrize(
    ("sample", "task"),
    [({"labels": 1}, "classify"), ({"labels": [1, -100]}, "lm"), ({"labels": None}, "lm"), ({}, "lm")],
)
def test_tokenised_rows_tell_their_task_by_the_label(sample, task):
    names = {"input_ids": "input_ids", **({"labels": "labels"} if sample else {})}
    assert infer_task(names, ALL, sample={"input_ids": [1, 2], **sample}) == task


def test_the_family_decides_where_columns_do_not():
    assert infer_task(["text"], ("classify",), need_target=False) == "classify"
    assert infer_task(["text"], ("lm", "instruct"), need_target=False) == "lm"
    assert infer_task(["prompt"], ("lm", "instruct"), need_target=False) == "instruct"
    assert infer_task(["instruction", "input"], ("lm", "instruct"), need_target=False) == "instruct"
    assert infer_task(["x"], ("classify",), arrays=True) == "classify"


@pytest.mark.parametrize(
    ("columns", "family", "message"),
    [
        (["text", "label"], ("lm", "instruct"), "stand for the task classify, which this model family cannot do"),
        (["prompt", "completion"], ("classify",), "stand for the task instruct, which this model family cannot do"),
        (["text"], ("classify",), "stand for the task lm, which this model family cannot do"),
        (["a", "b"], ALL, "no task fits the columns a, b"),
    ],
)
def test_contradictions(columns, family, message):
    with pytest.raises(DataError, match=message):
        infer_task(columns, family)


def test_a_mapped_name_wins_over_a_column_of_that_name():
    names = mapped(["text", "body", "label"], {"text": "body"}, "f")
    assert names == {"text": "body", "label": "label"}
    assert choose_schema(names, "classify", "f").columns == {"text": "body", "label": "label"}


def test_case_does_not_matter_unless_both_are_there():
    assert mapped(["Text", "LABEL"], {}, "f") == {"text": "Text", "label": "LABEL"}
    assert mapped(["Text", "text"], {}, "f") == {"Text": "Text", "text": "text"}


def test_wrong_mappings():
    with pytest.raises(DataError, match=r"f: no column 'cntent' \(data.columns.text\)") as caught:
        mapped(["content", "stars"], {"text": "cntent"}, "f")
    assert "Columns found: content, stars. Did you mean content" in caught.value.hint
    with pytest.raises(ConfigError, match="unknown name 'txt'") as wrong:
        mapped(["content"], {"txt": "content"}, "f")
    assert "text" in wrong.value.hint


def test_a_text_column_can_be_a_prompt():
    assert choose_schema({"text": "text"}, "instruct", "f", need_target=False, text_prompts=True).kind.name == "text"
    with pytest.raises(DataError, match="do not fit the task instruct") as caught:
        choose_schema({"text": "text"}, "instruct", "f")
    assert "--task lm" in caught.value.hint
