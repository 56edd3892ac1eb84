"""Rows with a chosen and a rejected answer: their usual forms, the two sequences that they become, and rows that prefer nothing."""

import json

import numpy as np
import pytest

from petrun.data.batches.buckets import BatchSpec
from petrun.data.batches.collate import collate
from petrun.data.batches.rank_share import count_rows
from petrun.data.encode.preference import prompt_cells, with_prompt_column
from petrun.data.examples.preview import preview
from petrun.data.rows.columns import mapped, row_schemas
from petrun.data.tokenizers.tokenizer import load_tokenizer
from petrun.errors import DataError
from tests.data.loading import read_examples
from tests.tiny import CHAT, letters, write_rows


@pytest.fixture
def tokenizer(tmp_path):
    letters().save(str(tmp_path / "tokenizer.json"))
    config = {"eos_token": "<eos>", "pad_token": "<pad>", "chat_template": CHAT}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(tmp_path)


def read(tmp_path, tokenizer, rows, **settings):
    write_rows(tmp_path / "rows.jsonl", rows)
    return read_examples(tmp_path / "rows.jsonl", task=None, tokenizer=tokenizer, **{"seq_len": 64, **settings})


def alone(tmp_path, tokenizer, prompt, completion):
    """The row of instruct with one of the answers."""
    write_rows(tmp_path / "one.jsonl", [{"prompt": prompt, "completion": completion}])
    return read_examples(tmp_path / "one.jsonl", task="instruct", tokenizer=tokenizer, seq_len=64)[0]


def said(*contents):
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def test_a_row_is_the_two_rows_of_instruct_one_after_the_other(tmp_path, tokenizer):
    examples = read(tmp_path, tokenizer, [{"prompt": "ab", "chosen": "cde", "rejected": "f"}])
    assert examples.task == "preference"
    chosen, rejected = (alone(tmp_path, tokenizer, "ab", answer) for answer in ("cde", "f"))
    row = examples[0]
    assert row.input_ids.tolist() == [*chosen.input_ids, *rejected.input_ids]
    assert row.labels.tolist() == [*chosen.labels, *rejected.labels]
    assert row.mask.tolist() == [1] * len(chosen.input_ids) + [2] * len(rejected.input_ids)
    assert row.prompt_length == chosen.prompt_length and row.reference == "cde"
    batch = collate(examples, BatchSpec(((0,),), 16), ("input_ids", "segment_ids", "position_ids"))
    first, second = len(chosen.input_ids), len(rejected.input_ids)
    positions = batch.inputs["position_ids"][0]
    assert positions[: first + second].tolist() == [*range(first), *range(second)]
    assert batch.inputs["segment_ids"][0].tolist() == [1] * first + [2] * second + [0] * (16 - first - second)
    # Each sequence is shifted by itself: its last token predicts nothing.
    wanted = [*chosen.labels[1:], -100, *rejected.labels[1:], -100]
    assert batch.targets[0, : first + second].tolist() == wanted
    assert count_rows(examples).scored.tolist() == [1], "a row counts once, however many tokens its answers have"


TURNS = said("ab", "cd", "ef")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": TURNS, "chosen": said("", "gh")[1:], "rejected": said("", "ij")[1:]},
        {"messages": TURNS, "chosen": "gh", "rejected": "ij"},
        {"prompt": TURNS, "chosen": "gh", "rejected": "ij"},
        {"chosen": [*TURNS, *said("", "gh")[1:]], "rejected": [*TURNS, *said("", "ij")[1:]]},
        {"prompt": "ef", "chosen": [*TURNS, *said("", "gh")[1:]], "rejected": [*TURNS, *said("", "ij")[1:]]},
    ],
    ids=["lists", "messages", "text-answers", "no-prompt", "ultrafeedback"],
)
def test_conversations_in_their_usual_forms(tmp_path, tokenizer, row):
    """Only the answers are scored, not an earlier turn of the assistant."""
    examples = read(tmp_path, tokenizer, [row])
    found = examples[0]
    for sequence, answer in ((1, "gh"), (2, "ij")):
        mine = found.mask == sequence
        learned = found.input_ids[mine][found.labels[mine] != -100]
        assert tokenizer.decode(learned).startswith(answer) and "cd" not in tokenizer.decode(learned)
        assert "cd" in tokenizer.decode(found.input_ids[mine])


def test_each_answer_is_cut_by_itself(tmp_path, tokenizer):
    rows = [
        {"prompt": "ab", "chosen": "c" * 30, "rejected": "d"},
        {"prompt": "a" * 12, "chosen": "c", "rejected": "d" * 3},
    ]
    examples = read(tmp_path, tokenizer, rows, seq_len=10)
    lengths = [[int((examples[i].mask == sequence).sum()) for sequence in (1, 2)] for i in range(2)]
    assert lengths[0] == [10, 4] and lengths[1] == [10, 10]
    assert examples.stats.cut == 2 and examples.stats.completion_gone == 1
    assert count_rows(examples).scored.tolist() == [1, 0], "a row without answers counts for nothing"
    assert examples.longest_row(10) == 20


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "ab", "chosen": "c", "rejected": "c"}, "line 1: the chosen and the rejected answer are the same"),
        ({"prompt": "ab", "chosen": "c", "rejected": None}, "line 1: column 'rejected' is empty"),
        ({"prompt": "ab", "chosen": ["c"], "rejected": "d"}, "line 1: column 'chosen' is list"),
        ({"prompt": "ab", "chosen": "c", "rejected": 3}, "line 1: column 'rejected' is the number 3"),
        ({"chosen": said("a", "b"), "rejected": said("c", "d")}, "chosen and rejected do not begin alike"),
        ({"chosen": "ab", "rejected": "cd"}, "chosen and rejected do not begin alike"),
        ({"chosen": "ab", "rejected": "abc"}, "chosen and rejected do not begin alike"),
    ],
)
def test_rows_that_prefer_nothing(tmp_path, tokenizer, row, words):
    with pytest.raises(DataError) as error:
        read(tmp_path, tokenizer, [row])
    assert words in str(error.value)


def test_answers_that_differ_behind_the_cut_alone_count_for_nothing(tmp_path, tokenizer):
    rows = [
        {"prompt": "ab", "chosen": "c" * 30 + "d", "rejected": "c" * 30},
        {"prompt": "ab", "chosen": "c", "rejected": "d"},
    ]
    examples = read(tmp_path, tokenizer, rows, seq_len=10)
    assert count_rows(examples).scored.tolist() == [0, 1] and examples.stats.completion_gone == 1


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "answers"),
    [
        # The rows of Anthropic's hh-rlhf; trl's extract_prompt cuts these three alike.
        ("a: hi\n\nb: yes", "a: hi\n\nb: no", "a: hi\n\nb:", (" yes", " no")),
        ("你好吗？我", "你好吗？不", "你好吗？", ("我", "不")),
        ("a b c", "a d", "a", (" b c", " d")),
        # trl's cuts within the word, and leaves an empty answer: the token of its first letters is another one then.
        ("a: thanks", "a: thank", "a:", (" thanks", " thank")),
    ],
)
def test_texts_that_begin_alike_hold_the_prompt(chosen, rejected, prompt, answers):
    row = {"chosen": chosen, "rejected": rejected}
    schema = with_prompt_column(row_schemas(mapped(row, {}, ""))[0])
    assert prompt_cells(row, schema, "") == {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}


def test_texts_that_begin_alike_are_trained_as_prompt_and_answers(tmp_path, tokenizer):
    whole = read(tmp_path, tokenizer, [{"chosen": "ab cde", "rejected": "ab f"}])[0]
    split = read(tmp_path, tokenizer, [{"prompt": "ab", "chosen": " cde", "rejected": " f"}])[0]
    assert whole.input_ids.tolist() == split.input_ids.tolist() and whole.labels.tolist() == split.labels.tolist()


def test_the_preview_shows_each_sequence_on_a_line_of_its_own(tmp_path, tokenizer):
    examples = read(tmp_path, tokenizer, [{"prompt": "ab", "chosen": "cde", "rejected": "f"}])
    assert preview(examples, tokenizer, 1).splitlines()[1:] == ["ab⟦cde<eos>⟧", "ab⟦f<eos>⟧"]


def test_the_chosen_answers_alone_are_rows_of_instruct(tmp_path, tokenizer):
    write_rows(tmp_path / "rows.jsonl", [{"prompt": "ab", "chosen": "cde", "rejected": "f"}])
    found = read_examples(tmp_path / "rows.jsonl", task="instruct", tokenizer=tokenizer, seq_len=64)
    np.testing.assert_array_equal(found[0].input_ids, alone(tmp_path, tokenizer, "ab", "cde").input_ids)
    assert found.unused_columns == ("rejected",)


@pytest.mark.parametrize("prompt", [{}, {"prompt": "ef"}])
def test_the_prompt_of_two_conversations_stands_once_in_the_chosen_answers(tmp_path, tokenizer, prompt):
    row = {**prompt, "chosen": [*TURNS, *said("", "gh")[1:]], "rejected": [*TURNS, *said("", "ij")[1:]]}
    pair = read(tmp_path, tokenizer, [row])[0]
    for settings in ({}, {"for_generation": True}):
        found = read_examples(tmp_path / "rows.jsonl", task="instruct", tokenizer=tokenizer, seq_len=64, **settings)[0]
        length = pair.prompt_length if settings else int((pair.mask == 1).sum())
        assert found.input_ids.tolist() == pair.input_ids[:length].tolist()
