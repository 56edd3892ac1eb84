"""Conversations go from form to form without loss, or are refused by what the form lacks."""

import pytest

from petrun.config.commands.data import form_choices
from petrun.curation.forms import FormConverter, forms, swapped
from petrun.curation.parts import PartReader
from petrun.errors import DataError
from tests.curation.rows import MIXED, row

CALL = {
    "messages": [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"city": "Rome"}}}],
        },
        {"role": "tool", "content": "sunny"},
        {"role": "assistant", "content": "Sunny.", "weight": 0},
    ]
}


@pytest.mark.parametrize("form", forms())
def test_a_form_and_back_is_the_same_conversation(form):
    to_messages = FormConverter("messages")
    for cells in MIXED:
        whole = to_messages(row(cells))
        if "tools" in whole and form in ("alpaca", "prompt"):
            continue
        assert to_messages(row(FormConverter(form)(row(cells)))) == whole


def test_the_command_line_knows_the_forms():
    assert form_choices() == forms()


def test_other_columns_are_kept():
    assert FormConverter("alpaca")(row(MIXED[0]))["id"] == 1


def test_sharegpt_holds_calls_of_tools_and_weights():
    turns = FormConverter("sharegpt")(row(CALL))["conversations"]
    assert turns[1] == {"from": "function_call", "value": '{"name": "f", "arguments": {"city": "Rome"}}'}
    assert turns[2:] == [{"from": "observation", "value": "sunny"}, {"from": "gpt", "value": "Sunny.", "weight": 0}]
    calls = FormConverter("messages")(row({"conversations": turns}))["messages"][1]["tool_calls"]
    assert calls == [{"name": "f", "arguments": {"city": "Rome"}}]


@pytest.mark.parametrize(
    ("cells", "form", "lacks"),
    [
        (MIXED[3], "alpaca", "Alpaca has no form for tools"),
        (CALL, "prompt", "no form for tool_calls of message 2"),
        ({"messages": [{"role": "user", "content": "q"}]}, "alpaca", "needs an answer after every question"),
        (
            {
                "messages": [
                    {"role": "user", "content": "q"},
                    {"role": "assistant", "content": "a", "reasoning_content": "r"},
                ]
            },
            "sharegpt",
            "ShareGPT has no form for reasoning_content",
        ),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "messages", "no form for a rejected answer"),
        ({"prompt": "q", "completion": ["a", "b"]}, "sharegpt", "no form for several references"),
        ({"text": "plain"}, "messages", "holds text, not a question and an answer"),
    ],
)
def test_what_a_form_cannot_hold_is_an_error(cells, form, lacks):
    with pytest.raises(DataError, match=lacks):
        FormConverter(form)(row(cells))


def test_question_and_answer_are_exchanged():
    parts = PartReader()
    assert swapped(row(MIXED[0]), parts) == {"prompt": "Hi!", "completion": "Say hi", "id": 1}
    assert swapped(row(MIXED[1]), parts)["completion"] == "Add\n\n1 2"
    for cells, lacks in (
        (MIXED[4], "several turns"),
        ({"prompt": "q", "completion": "a", "system": "s"}, "a system text"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "a rejected answer"),
    ):
        with pytest.raises(DataError, match=f"no form for {lacks}"):
            swapped(row(cells), parts)


def test_columns_are_named_by_the_user():
    parts = PartReader(source="问题", target="答案")
    cells = {"问题": "q", "答案": "a", "id": "7"}
    assert FormConverter("prompt", parts)(row(cells)) == {"prompt": "q", "completion": "a", "id": "7"}
    with pytest.raises(DataError, match="no column '答案'"):
        FormConverter("prompt", parts)(row({"问题": "q"}))
