"""Rows that cannot be learnt from, and settings that do not fit them: each with the message that leads out."""

import json

import pytest

from petrun.errors import ConfigError, DataError
from tests.data.loading import read_examples

GOOD = {"text": "good film", "label": 1}


def lines(*rows):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def messages(*pairs):
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


# name: (file, content, task, message, part of the hint); the file's path stands before every message that begins with "F"
CASES = {
    "missing label column": (
        "a.jsonl",
        lines({"text": "a", "stars": 1}),
        "classify",
        "F: no column 'label', which the task classify needs",
        "Columns found: text, stars",
    ),
    "missing text column": (
        "a.jsonl",
        lines({"review": "a", "label": 1}),
        "classify",
        "F: the columns review, label do not fit the task classify",
        "classify needs text",
    ),
    "text missing in one row": (
        "a.jsonl",
        lines(GOOD, {"sentence": "x", "label": 1}),
        None,
        "F, line 2: no column 'text'",
        "sentence, label",
    ),
    "null text": (
        "a.jsonl",
        lines(GOOD, {"text": None, "label": 1}),
        None,
        "F, line 2: column 'text' is empty (null)",
        "",
    ),
    "number as text": (
        "a.jsonl",
        lines(GOOD, {"text": 7, "label": 1}),
        None,
        "F, line 2: column 'text' is the number 7, expected text",
        "quotes",
    ),
    "list as text": ("a.jsonl", lines(GOOD, {"text": ["a"], "label": 1}), None, "F, line 2: column 'text' is list", ""),
    "half a character": (
        "a.jsonl",
        '{"text": "a\\ud83d", "label": 1}\n',
        None,
        "F, line 1: column 'text' holds half of a surrogate pair",
        "emoji",
    ),
    "label missing in one row": (
        "a.jsonl",
        lines(GOOD, {"text": "x"}),
        None,
        "F, line 2: no column 'label'",
        "Columns of this row: text",
    ),
    "null label": ("a.jsonl", lines(GOOD, {"text": "x", "label": None}), None, "F, line 2: the label is missing", ""),
    "empty label": ("a.tsv", "text\tlabel\na\t1\nb\t\n", None, "F, line 3: the label is missing", ""),
    "fractional label among words": (
        "a.jsonl",
        lines({"text": "x", "label": 0.5}, {"text": "x", "label": "pos"}),
        None,
        "F, line 1: the label 0.5 is not an integer",
        "regression",
    ),
    "fractional labels and a word in CSV": (
        "a.csv",
        "text,label\na,1.5\nb,pos\n",
        None,
        "mixed labels: F, line 2 has the number 1.5, F, line 3 has 'pos'",
        "list them",
    ),
    "NaN label": ("a.jsonl", '{"text": "x", "label": NaN}\n', None, "F, line 1: the label is nan", ""),
    "list label": ("a.jsonl", lines({"text": "x", "label": [1]}), None, "F, line 1: the label is list", ""),
    "negative label": (
        "a.jsonl",
        lines(GOOD, {"text": "x", "label": -1}),
        None,
        "F, line 2: the label -1 is negative",
        "-1 often marks rows",
    ),
    "mixed labels": (
        "a.jsonl",
        lines(GOOD, {"text": "x", "label": "pos"}),
        None,
        "mixed labels: F, line 1 has the integer 1, F, line 2 has 'pos'",
        "header",
    ),
    "labels of free text": (
        "a.jsonl",
        lines(*({"text": "x", "label": f"reason {i}"} for i in range(300))),
        None,
        "the label column holds 300 different values in 300 rows",
        "data.columns.label",
    ),
    "task against the columns": (
        "a.jsonl",
        lines({"prompt": "a", "completion": "b"}),
        "lm",
        "F: the columns prompt, completion do not fit the task lm",
        "--task instruct",
    ),
    "no task fits": (
        "a.jsonl",
        lines({"foo": "a", "bar": "b"}),
        None,
        "no task fits the columns foo, bar",
        "data.columns.text=NAME",
    ),
    "completion missing": (
        "a.jsonl",
        lines({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": None}),
        None,
        "F, line 2: column 'completion' is empty (null)",
        "",
    ),
    "no separator in a line": (
        "a.txt",
        "a||b\nc|d\n",
        "separated",
        "F, line 2: no separator '||' in 'c|d'",
        "input<separator>reference",
    ),
    "messages not a list": ("a.jsonl", lines({"messages": "hi"}), None, "F, line 1: messages must be a list", ""),
    "messages without role": (
        "a.jsonl",
        lines({"messages": [{"name": "human", "content": "hi"}]}),
        None,
        "F, line 1, message 1: no `role` (found name, content)",
        "",
    ),
    "unknown role": (
        "a.jsonl",
        lines(messages(("usr", "hi"))),
        None,
        "F, line 1, message 1: unknown role 'usr'",
        "user",
    ),
    "content of parts": (
        "a.jsonl",
        lines({"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
        None,
        "message 1: `content` must be text",
        "",
    ),
    "no assistant": (
        "a.jsonl",
        lines(messages(("user", "hi"))),
        None,
        "F, line 1: no message of the assistant",
        "predicted",
    ),
    "input_ids of words": (
        "a.jsonl",
        lines({"input_ids": ["a"]}),
        "lm",
        "F, line 1: column 'input_ids' holds 'a' at position 0",
        "",
    ),
    "input_ids of booleans": (
        "a.jsonl",
        lines({"input_ids": [True, 1]}),
        "lm",
        "F, line 1: column 'input_ids' holds True",
        "",
    ),
    "input_ids not a list": (
        "a.jsonl",
        lines({"input_ids": 5}),
        "lm",
        "F, line 1: column 'input_ids' is int, expected a list",
        "",
    ),
    "input_ids empty": ("a.jsonl", lines({"input_ids": []}), "lm", "F, line 1: input_ids is empty", ""),
    "negative id": (
        "a.jsonl",
        lines({"input_ids": [3, -1]}),
        "lm",
        "F, line 1: input_ids holds the negative id -1",
        "",
    ),
    "id outside the vocabulary": (
        "a.jsonl",
        lines({"input_ids": [3, 500]}),
        "lm",
        "F, line 1: input_ids holds the id 500",
        "",
    ),
    "huge id": (
        "a.jsonl",
        lines({"input_ids": [3, 2**40]}),
        "lm",
        "F, line 1: column 'input_ids' holds integers that do not fit 32 bits",
        "",
    ),
    "mask too short": (
        "a.jsonl",
        lines({"input_ids": [1, 2], "attention_mask": [1]}),
        "lm",
        "attention_mask has 1 entries, input_ids 2",
        "",
    ),
    "mask of other numbers": (
        "a.jsonl",
        lines({"input_ids": [1, 2], "attention_mask": [1, 3]}),
        "lm",
        "attention_mask holds 3, expected 0 or 1",
        "",
    ),
    "mask of zeros": (
        "a.jsonl",
        lines({"input_ids": [1, 2], "attention_mask": [0, 0]}),
        "lm",
        "attention_mask is 0 everywhere",
        "",
    ),
    "labels too long": (
        "a.jsonl",
        lines({"input_ids": [1, 2], "labels": [1, 2, 3]}),
        "lm",
        "F, line 1: 3 labels for 2 input_ids",
        "not shifted",
    ),
    "labels outside the vocabulary": (
        "a.jsonl",
        lines({"input_ids": [1, 2], "labels": [-100, 500]}),
        "lm",
        "labels holds the id 500",
        "",
    ),
    "labels of another negative": (
        "a.jsonl",
        lines({"input_ids": [1, 2], "labels": [-1, 2]}),
        "lm",
        "labels holds the negative id -1",
        "-100",
    ),
    "class for a decoder": (
        "a.jsonl",
        lines({"input_ids": [1, 2], "labels": 3}),
        "lm",
        "column 'labels' is 3; a decoder's labels are a list",
        "classify",
    ),
    "aligned labels for classify": (
        "a.jsonl",
        lines({"input_ids": [1, 2], "labels": [1, 2]}),
        "classify",
        "the label is list",
        "",
    ),
    "nothing supervised": (
        "a.jsonl",
        lines({"input_ids": [1, 2], "labels": [-100, -100]}),
        None,
        "F: nothing is supervised in 1 rows",
        "-100",
    ),
    "completions cut away": (
        "a.jsonl",
        lines({"prompt": "the dog " * 40, "completion": "yes"}),
        None,
        "F: nothing is supervised: in 1 of 1 rows the cut at 48 tokens left no completion",
        "--seq-len",
    ),
    "no text at all": ("a.jsonl", lines({"text": ""}, {"text": ""}), "lm", "F: no row holds any text", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_rows(refused, case):
    refused(*CASES[case])


def test_the_table_is_long_enough():
    assert len(CASES) >= 44


def test_text_without_a_tokenizer(write):
    with pytest.raises(DataError, match="the rows are text, but the base has no tokenizer"):
        read_examples(write("a.jsonl", [GOOD]), task=None, tokenizer=None, seq_len=8)


def test_a_tokenizer_of_another_base(write, bpe):
    with pytest.raises(
        DataError, match=r"the tokenizer gives the id \d+ .*, but the model's vocabulary has 50 entries"
    ):
        read_examples(write("a.jsonl", [GOOD]), task=None, tokenizer=bpe, seq_len=8, vocab_size=50)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"family_tasks": ("lm", "instruct")}, "which this model family cannot do"),
        (
            {"labels": ("neg", "pos", "mixed"), "num_labels": 3, "rows": [{"text": "a", "label": "positive"}]},
            "unknown label 'positive'",
        ),
        (
            {"num_labels": 2, "rows": [GOOD, {"text": "a", "label": 2}]},
            "line 2: the label 2 is out of range: there are 2 classes, 0 to 1",
        ),
        (
            {"num_labels": 2, "rows": [{"text": "a", "label": x} for x in "abc"]},
            "the data holds 3 labels, the model 2 classes",
        ),
        ({"columns": {"text": "content"}}, r"no column 'content' \(data.columns.text\)"),
    ],
)
def test_data_that_contradicts_the_model_or_the_settings(write, bpe, given, message):
    path = write("a.jsonl", given.pop("rows", [GOOD]))
    with pytest.raises(DataError, match=message):
        read_examples(path, task=None, tokenizer=bpe, seq_len=16, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"paths": []}, "no data file given"),
        ({"weights": (1.0, 2.0)}, "data.weights: 2 weights for 1 file"),
        ({"weights": (0.0,)}, "every weight is a number above 0"),
        ({"weights": (float("nan"),)}, "every weight is a number above 0"),
        ({"weights": (1e30,)}, "every weight is a number above 0 and at most 10000"),
        ({"task": "lm", "family_tasks": ("classify",)}, "--task lm: this model family cannot do it; it does classify"),
        ({"columns": {"txt": "text"}}, "data.columns: unknown name 'txt'"),
        ({"template": "alpaca"}, "--template alpaca: rows of the kind 'text' have no prompt"),
        ({"format": "separated"}, "there is no data.separator"),
        ({"separator": ""}, "data.separator: must not be empty"),
    ],
)
def test_settings_that_cannot_be_met(write, bpe, given, message):
    paths = given.pop("paths", write("a.jsonl", [GOOD]))
    with pytest.raises(ConfigError, match=message):
        read_examples(paths, **{"task": None, "tokenizer": bpe, "seq_len": 16, **given})
