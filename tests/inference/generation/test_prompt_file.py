"""Prompts of `petrun generate`: lines of text, JSON objects, and files that hold neither."""

import json

import pytest

from petrun.errors import DataError
from petrun.inference.generation.prompt_file import read_prompts, text_row

TALK = [{"role": "user", "content": "hi"}]


def test_lines_are_prompts_and_empty_lines_are_not(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("film\u2028good\n\n  \nnot {json}\n", encoding="utf-8")
    rows = read_prompts(str(path))
    assert [row.prompt for row in rows] == ["film\u2028good", "not {json}"]
    assert rows[1] == text_row("not {json}") and rows[1].delta is None and rows[1].item == {"prompt": "not {json}"}


def test_objects_name_their_delta_and_hold_cells(tmp_path):
    path = tmp_path / "rows.jsonl"
    items = [
        {"prompt": "x", "delta": "a", "system": "be brief"},
        {"messages": TALK, "enable_thinking": False},
        {"conversations": json.dumps(TALK)},
    ]
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    rows = read_prompts(str(path))
    assert [row.prompt for row in rows] == ["x", TALK, TALK]
    assert [row.delta for row in rows] == ["a", None, None]
    assert [dict(row.cells) for row in rows] == [{"system": "be brief"}, {"enable_thinking": False}, {}]
    assert [row.item for row in rows] == items
    assert [row.prompt for row in read_prompts(f"{path}#1:2")] == [TALK]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "line 1: must be an object"),
        ('{"prompt": "x", "delt": "a"}', "line 1: unknown key 'delt'"),
        ('{"prompt": "x", "messages": []}', "line 1: must have either prompt or messages"),
        ('{"delta": "a"}', "line 1: must have either prompt or messages"),
        ('{"prompt": 3}', "line 1: prompt must be a text, or messages"),
        ('{"messages": ["hi"]}', "line 1: messages must be a list of messages"),
        ('{"prompt": "x", "delta": 3}', "and delta a name"),
        ('{"prompt": ', "line 1: is not valid JSON"),
    ],
)
def test_an_object_that_is_no_prompt_is_named(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        read_prompts(str(path))
