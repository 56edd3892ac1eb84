"""Rows with one answer: the two sequences that they become, their labels, and rows that KTO cannot learn from."""

import json

import pytest

from petrun.data.batches.buckets import BatchSpec
from petrun.data.batches.collate import collate
from petrun.data.batches.rank_share import count_rows
from petrun.data.examples.example_set import DESIRABLE
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
    return read_examples(tmp_path / "rows.jsonl", tokenizer=tokenizer, **{"seq_len": 64, "task": None, **settings})


def row(prompt, completion, label):
    return {"prompt": prompt, "completion": completion, "label": label}


def alone(tmp_path, tokenizer, prompt, completion):
    """The row of instruct with this answer."""
    write_rows(tmp_path / "one.jsonl", [{"prompt": prompt, "completion": completion}])
    return read_examples(tmp_path / "one.jsonl", task="instruct", tokenizer=tokenizer, seq_len=64)[0]


def test_beside_each_answer_stands_that_of_the_nearest_row_before_with_another_prompt(tmp_path, tokenizer):
    rows = [row("ab", "c", True), row("ab", "dd", False), row("e", "fgh", True), row("i", "j", False)]
    examples = read(tmp_path, tokenizer, rows)
    assert examples.task == "preference" and examples.is_unpaired and examples.metrics_of == "unpaired"
    others = ["j", "j", "dd", "fgh"]
    for i, (given, other) in enumerate(zip(rows, others, strict=True)):
        parts = [alone(tmp_path, tokenizer, given["prompt"], answer) for answer in (given["completion"], other)]
        found = examples[i]
        assert found.input_ids.tolist() == [*parts[0].input_ids, *parts[1].input_ids]
        assert found.labels.tolist() == [*parts[0].labels, *parts[1].labels]
        assert found.mask.tolist() == [1] * len(parts[0].input_ids) + [2] * len(parts[1].input_ids)
        assert found.label == int(given["label"]) and found.reference == given["completion"]
    assert count_rows(examples).scored.tolist() == [1] * 4
    batch = collate(examples, BatchSpec(((2,), (1,)), 32), (DESIRABLE, "input_ids", "segment_ids"))
    assert batch.inputs[DESIRABLE].tolist() == [1, 0]


def test_messages_and_cut_rows(tmp_path, tokenizer):
    def asked(text):
        return [{"role": "user", "content": text}]

    rows = [
        {"messages": asked("ab"), "completion": [{"role": "assistant", "content": "c"}], "label": True},
        {"messages": asked("d"), "completion": [{"role": "assistant", "content": "efghij" * 9}], "label": False},
    ]
    examples = read(tmp_path, tokenizer, rows, seq_len=40)
    assert examples.is_unpaired and examples.stats.cut == 1
    for found in (examples[0], examples[1]):
        assert max((found.mask == 1).sum(), (found.mask == 2).sum()) <= 40


GOOD = [row("ab", "c", True), row("d", "e", False)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*GOOD, {"prompt": "f", "completion": "g"}], "rows.jsonl, line 3: no label in the column 'label'"),
        ([*GOOD, row("f", "g", None)], "rows.jsonl, line 3: no label in the column 'label'"),
        ([*GOOD, row("f", "g", "good")], "rows.jsonl, line 3: the label 'good' is not true or false"),
        ([*GOOD, row("f", "g", 1)], "rows.jsonl, line 3: the label '1' is not true or false"),
        ([row("a", "b", True), row("c", "d", True)], "rows.jsonl: the label of every row is true"),
        ([row("a", "b", False)], "rows.jsonl: the label of every row is false"),
        ([row("a", "b", False), row("a", "d", True)], "rows.jsonl: all rows have the same prompt"),
    ],
)
def test_refused(tmp_path, tokenizer, rows, words):
    with pytest.raises(DataError) as error:
        read(tmp_path, tokenizer, rows)
    assert words in str(error.value)


def test_bad_rows_are_left_out_where_asked(tmp_path, tokenizer):
    examples = read(tmp_path, tokenizer, [*GOOD, row("f", "g", "good")], on_bad_row="skip")
    assert len(examples) == 2 and examples.stats.bad == 1


def test_other_labels_are_columns_that_instruct_does_not_read(tmp_path, tokenizer):
    examples = read(tmp_path, tokenizer, [row("ab", "c", "fruit")])
    assert examples.task == "instruct" and examples.unused_columns == ("label",)
    assert read(tmp_path, tokenizer, GOOD, task="instruct").kind == "completion"
