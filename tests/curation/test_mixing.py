"""Shares, repeats and tags of a mix."""

import pytest

from petrun.curation.mixing import SYSTEM, TOKEN, MixPart, Tagger, draw, parse_part
from petrun.errors import ConfigError, DataError
from tests.curation.rows import MIXED, row


def test_parts_are_read():
    assert parse_part("a.jsonl") == MixPart(path="a.jsonl", weight=1)
    assert parse_part("a.jsonl:0.7") == MixPart(path="a.jsonl", weight=0.7)
    assert parse_part("a:b.jsonl") == MixPart(path="a:b.jsonl", weight=1)
    assert parse_part("a.jsonl#5:9:2:tag=From: the web.") == MixPart(path="a.jsonl#5:9", weight=2, tag="From: the web.")
    assert parse_part("a.jsonl#5:0.5") == MixPart(path="a.jsonl#5", weight=0.5)
    with pytest.raises(ConfigError, match=r"a\.jsonl#5:9: rows from one number to the other"):
        parse_part("a.jsonl#5:9")
    for wrong in ("a.jsonl:0", "a.jsonl:-1", "a.jsonl:inf", "a.jsonl:tag= "):
        with pytest.raises(ConfigError):
            parse_part(wrong)


def test_rows_are_repeated_evenly():
    times = draw(10, 25, seed=3, file=0)
    assert (
        sorted(times) == [2] * 5 + [3] * 5
        and (times == draw(10, 25, 3, 0)).all()
        and (times != draw(10, 25, 4, 0)).any()
    )


def test_a_tag_is_a_sentence_of_the_system_text():
    tagged = Tagger("From the web.", SYSTEM)
    assert tagged(row(MIXED[0]))["system"] == "From the web."
    assert tagged(row({**MIXED[0], "system": "Be kind."}))["system"] == "Be kind. From the web."
    assert tagged(row(MIXED[3]))["messages"][0] == {"role": "system", "content": "Be short. From the web."}
    found = tagged(row(MIXED[4]))["conversations"]
    assert found[0] == {"role": "system", "content": "From the web."} and len(found) == 5


def test_a_tag_may_stand_before_the_question():
    tagged = Tagger("<BT>", TOKEN)
    assert tagged(row(MIXED[1]))["instruction"] == "<BT> Add"
    assert tagged(row(MIXED[3]))["messages"][1]["content"] == "<BT> 你好"
    with pytest.raises(DataError, match="needs a row with a question"):
        tagged(row({"text": "plain"}))


def test_rows_of_preference_are_tagged_before_both_answers():
    tagged = Tagger("<BT>", TOKEN)
    assert tagged(row({"prompt": "q", "chosen": "a", "rejected": "b"}))["prompt"] == "<BT> q"
    assert tagged(row({"chosen": "q a", "rejected": "q b"})) == {"prompt": "<BT> q", "chosen": " a", "rejected": " b"}
    asked = {"role": "user", "content": "q"}
    answers = [[asked, {"role": "assistant", "content": text}] for text in "ab"]
    found = tagged(row({"chosen": answers[0], "rejected": answers[1]}))
    assert found["prompt"][0]["content"] == "<BT> q" and found["rejected"] == [{"role": "assistant", "content": "b"}]
