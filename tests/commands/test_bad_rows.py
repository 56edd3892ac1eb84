"""Rows that cannot be read, do not fit the task, the model or the training labels; and templates that do not render."""

import io
import json

import numpy as np
import pytest

from tests.program import cut

GOOD, BAD = {"text": "good film", "label": 1}, {"text": "bad film", "label": 0}
SUM = {"prompt": "1+2=", "completion": "3"}


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def npz(**arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def parquet():
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": [0, 1]}), out)
    return out.getvalue()


X = np.zeros((4, 2), np.float32)
# name: (base, file, content, words); {} in the words stands for the file
FILES = {
    "missing": ("bert", "nix.jsonl", None, ["{}: no such data file", "Beside it: bert, bert-lora"]),
    "empty": ("bert", "a.jsonl", "", ["{}: the file is empty", "at least one row"]),
    "JSONL truncated": ("bert", "a.jsonl", lines(GOOD, BAD)[:-12], ["{}, line 2: not JSON", "looks cut off"]),
    "JSONL in UTF-16, cut short": (
        "bert",
        "a.jsonl",
        lines(GOOD, BAD).encode("utf-16")[:-1],
        ["{}, line 2: byte 0x0a is not utf-16", "whole"],
    ),
    "JSONL of another type": (
        "bert",
        "a.jsonl",
        lines(GOOD, {"text": 5, "label": 0}),
        ["{}, line 2: column 'text' is the number 5", "in quotes"],
    ),
    "JSONL of lists": (
        "bert",
        "a.jsonl",
        lines(GOOD, [1, 2]),
        ["{}, line 2: a row must be an object with named columns"],
    ),
    "JSON truncated": ("bert", "a.json", '[{"text": "a", "label": 1}, {"te', ["{}, line 1: not JSON", "looks cut off"]),
    "JSON without rows": (
        "bert",
        "a.json",
        '{"rows": 1}',
        ["{}: no task fits the columns rows", "data.columns.text=NAME"],
    ),
    "CSV of a header": ("bert", "a.csv", "text,label\n", ["{}: holds a header but no rows", "text, label"]),
    "CSV with a cell too many": (
        "bert",
        "a.csv",
        "text,label\na,1\nb,c,0\n",
        ["{}, line 3: 3 cells, expected 2", "must stand in quotes"],
    ),
    "CSV with an open quote": (
        "bert",
        "a.csv",
        'text,label\na,1\n"b,0\n',
        ["{}, line 3: a quote is opened and never closed"],
    ),
    "TSV in Latin-1": (
        "bert",
        "a.tsv",
        "bad caf\u00e9\t0\ngood\t1\n".encode("latin-1"),
        ["{}, line 1: byte 0xe9 is not UTF-8", "cp1252 'bad café", "--set data.encoding=NAME"],
    ),
    "TSV with a cell less": ("bert", "a.tsv", "text\tlabel\na\t1\nb\n", ["{}, line 3: 1 cell, expected 2"]),
    "text without labels": (
        "bert",
        "a.txt",
        "just words\nand more\n",
        ["{}: the columns text stand for the task lm, which this model family cannot do", "It does classify"],
    ),
    "text with a NUL": ("gpt2", "a.txt", b"some words that go on\nand \0 on\n", ["{}, line 2: holds a NUL byte"]),
    "parquet truncated": ("bert", "a.parquet", b"PAR1\0\0", ["{}: the parquet file is damaged", "Was it cut short?"]),
    "parquet renamed": ("bert", "a.parquet", "text", ["{}: is not a parquet file (it does not begin with PAR1)"]),
    "npz truncated": (
        "bert",
        "a.npz",
        npz(x=X, label=[0, 1, 0, 1])[:-40],
        ["{}: the npz archive is damaged", "numpy.savez"],
    ),
    "npz of objects": (
        "bert",
        "a.npz",
        npz(x=np.array([{}] * 4, object), label=[0, 1, 0, 1]),
        ["{}: an array cannot be read", "store plain numbers"],
    ),
    "npz of unequal length": (
        "bert",
        "a.npz",
        npz(x=X, label=[0, 1]),
        ["{}: arrays of different length: x 4, label 2"],
    ),
    "npz for a model of text": (
        "bert",
        "a.npz",
        npz(x=X, label=[0, 1, 0, 1]),
        ["{}: no array 'input_ids', which the model takes"],
    ),
    "a spreadsheet": (
        "bert",
        "a.xlsx",
        b"PK\x03\x04xl/workbook.xml",
        ["{}: is a zip archive, such as a spreadsheet", "Export it as CSV"],
    ),
    "a gzip archive": ("bert", "a.jsonl", b"\x1f\x8b\x08abc", ["{}: the gzip file is damaged or cut short"]),
    "one label alone": ("bert", "a.jsonl", lines(BAD, BAD), ["{}: all rows have the same label", "data.labels=[...]"]),
    "a negative label": (
        "bert",
        "a.jsonl",
        lines(GOOD, {"text": "a", "label": -1}),
        ["{}, line 2: the label -1 is negative"],
    ),
    "a fractional label": (
        "bert",
        "a.jsonl",
        lines(GOOD, {"text": "a", "label": 0.5}, {"text": "a", "label": "pos"}),
        ["{}, line 2: the label 0.5 is not an integer", "regression"],
    ),
    "a label missing": ("bert", "a.jsonl", lines(GOOD, {"text": "a"}), ["{}, line 2: no column 'label'"]),
    "mixed labels": (
        "bert",
        "a.jsonl",
        lines(GOOD, {"text": "a", "label": "pos"}),
        ["mixed labels: {}, line 1 has the integer 1, {}, line 2 has 'pos'"],
    ),
    "no label column": ("bert", "a.jsonl", lines({"text": "a", "stars": 1}), ["text, stars"]),
    "ids beyond bert's vocabulary": (
        "bert",
        "a.jsonl",
        lines({"input_ids": [1, 500], "label": 1}),
        ["{}, line 1: input_ids holds the id 500", "14 entries"],
    ),
    "ids beyond gpt2's vocabulary": (
        "gpt2",
        "a.jsonl",
        lines({"input_ids": [1, 500]}),
        ["{}, line 1: input_ids holds the id 500", "258 entries"],
    ),
    "negative ids": (
        "gpt2",
        "a.jsonl",
        lines({"input_ids": [1, -5]}),
        ["{}, line 1: input_ids holds the negative id -5"],
    ),
    "a mask too short": (
        "gpt2",
        "a.jsonl",
        lines({"input_ids": [1, 2], "attention_mask": [1]}),
        ["attention_mask has 1 entries, input_ids 2"],
    ),
    "labels too long": (
        "gpt2",
        "a.jsonl",
        lines({"input_ids": [1, 2], "labels": [1, 2, 3]}),
        ["{}, line 1: 3 labels for 2 input_ids"],
    ),
    "nothing supervised": (
        "gpt2",
        "a.jsonl",
        lines({"input_ids": [1, 2], "labels": [-100, -100]}),
        ["{}: nothing is supervised in 1 rows", "-100"],
    ),
    "all completions cut": (
        "gpt2",
        "a.jsonl",
        lines({"prompt": "hello " * 30, "completion": "x"}),
        [
            "{}: nothing is supervised: in 1 of 1 rows the cut at 48 tokens left no completion",
            "Choose a longer --seq-len",
        ],
    ),
    "no text at all": ("gpt2", "a.jsonl", lines({"text": ""}), ["{}: no row holds any text"]),
    "a completion missing": (
        "gpt2",
        "a.jsonl",
        lines(SUM, {"prompt": "1", "completion": None}),
        ["{}, line 2: column 'completion' is empty (null)"],
    ),
    "messages without a role": (
        "llama",
        "a.jsonl",
        lines({"messages": [{"name": "human", "content": "hi"}]}),
        ["{}, line 1, message 1: no `role`"],
    ),
    "no assistant": (
        "llama",
        "a.jsonl",
        lines({"messages": [{"role": "user", "content": "hi"}]}),
        ["{}, line 1: no message of the assistant"],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_data_file(place, refused, name):
    base, file, content, words = FILES[name]
    if content is not None:
        (place / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(f"train --base {base} --data {file} --out run --steps 1", [word.replace("{}", file) for word in words])


def test_a_parquet_file_cut_short(place, refused):
    (place / "a.parquet").write_bytes(parquet())
    cut(place / "a.parquet")
    refused("train --base bert --data a.parquet --out run", ["a.parquet: the parquet file is damaged"])


def test_a_folder_as_data(refused):
    refused(
        "train --base bert --data gpt2 --out run", ["gpt2/tokenizer.json: expected a list of rows, found an object"]
    )


NAMED = lines({"text": "good", "label": "pos"}, {"text": "bad", "label": "neg"})
BERT = "train --base bert --out run --steps 1 --data"
GPT2 = "train --base gpt2 --out run --steps 1 --data orders.jsonl"
EVAL = "eval --base bert --delta bert-lora --out res.json --data"
PREDICT = "predict --base {0} --delta {0}-lora --data a.jsonl --out p.jsonl"
# name: (content of a.jsonl, the command, exit code, words)
COMMANDS = {
    "unknown evaluation label": (
        lines({"text": "a", "label": "pso"}),
        f"{BERT} named.jsonl --eval-data a.jsonl",
        1,
        ["a.jsonl, line 1: unknown label 'pso'", "Did you mean pos?"],
    ),
    "evaluation label out of range": (
        lines({"text": "a", "label": 2}),
        f"{BERT} reviews.jsonl --eval-data a.jsonl",
        1,
        ["a.jsonl, line 1: the label 2 is out of range"],
    ),
    "names for numbers": (
        NAMED,
        f"{BERT} reviews.jsonl --eval-data a.jsonl",
        1,
        ["a.jsonl: holds the labels neg, pos, but the model knows its 2 classes by number", "data.labels=[...]"],
    ),
    "no such evaluation file": (
        None,
        f"{BERT} reviews.jsonl --eval-data nix.jsonl",
        1,
        ["nix.jsonl: no such data file"],
    ),
    "empty evaluation file": ("\n", f"{BERT} reviews.jsonl --eval-data a.jsonl", 1, ["a.jsonl: the file is empty"]),
    "evaluation rows of another task": (
        None,
        f"{GPT2} --eval-data reviews.jsonl",
        1,
        ["reviews.jsonl: the columns text, label do not fit the task instruct"],
    ),
    "files of two kinds": (
        lines({"text": "a"}),
        f"{GPT2},a.jsonl",
        1,
        ["a.jsonl: the columns text do not fit the task instruct"],
    ),
    "one of two files missing": (None, f"{GPT2},nix.jsonl", 1, ["nix.jsonl: no such data file"]),
    "two weights for one file": (None, f"{GPT2} --set data.weights=[1,2]", 2, ["data.weights: 2 weights for 1 file"]),
    "a split of one row": (
        lines(GOOD, BAD),
        f"{BERT} a.jsonl --eval-split 0.9",
        1,
        ["data.eval_split: 0.9 of 2 rows leaves nothing to train on"],
    ),
    "no text file": (
        None,
        f"{BERT} reviews.jsonl --set data.format=npz",
        1,
        ["reviews.jsonl: is not a npz file"],
    ),
    "a column that is not there": (
        None,
        f"{BERT} reviews.jsonl --set data.columns.text=review",
        1,
        ["reviews.jsonl: no column 'review' (data.columns.text)", "Columns found: text, label"],
    ),
    "an unknown canonical column": (
        None,
        f"{BERT} reviews.jsonl --set data.columns.txt=text",
        2,
        ["data.columns: unknown name 'txt'"],
    ),
    "labels that the data exceeds": (
        None,
        f"{BERT} reviews.jsonl --set data.labels=a",
        1,
        ["reviews.jsonl, line 1: the label 1 is out of range"],
    ),
    "packed arrays": (
        None,
        "train --base bert --data reviews.jsonl --pack --seq-len 900 --out run",
        2,
        ["--seq-len 900 is more than the 24 positions of the model"],
    ),
    "seq-len too long": (
        None,
        f"{BERT} reviews.jsonl --seq-len 900",
        2,
        ["--seq-len 900 is more than the 24 positions of the model", "Give --seq-len 24 or less"],
    ),
    "seq-len too short": (
        None,
        f"{BERT} reviews.jsonl --seq-len 2",
        1,
        ["seq_len 2 leaves no room for text beside 2 special tokens", "longer --seq-len"],
    ),
    "seq-len of one": (None, f"{BERT} reviews.jsonl --seq-len 1", 2, ["--seq-len: 1 is not valid: must be at least 2"]),
    # templates
    "no such template": (
        None,
        f"{GPT2} --template nix.j2",
        1,
        ["--template nix.j2: neither a file nor a built-in template", "alpaca"],
    ),
    "template misspelt": (None, f"{GPT2} --template alpca", 1, ["--template alpca: neither", "Did you mean alpaca"]),
    "template broken": (
        "{{ prompt ",
        f"{GPT2} --template a.jsonl",
        1,
        ["a.jsonl, line 1: unexpected end of template", "Templates are jinja2"],
    ),
    "template of an unknown column": (
        "{{ promt }}",
        f"{GPT2} --template a.jsonl",
        1,
        ["orders.jsonl, line 1: the template a.jsonl fails: 'promt' is undefined", "Columns of the row: prompt"],
    ),
    "template that divides by zero": (
        "{{ prompt }}{{ 1 / 0 }}",
        f"{GPT2} --template a.jsonl",
        1,
        ["the template a.jsonl fails: division by zero"],
    ),
    "template in Latin-1": (
        b"\xe9{{ prompt }}",
        f"{GPT2} --template a.jsonl",
        1,
        ["a.jsonl: the template is not UTF-8 text"],
    ),
    "template empty": ("", f"{GPT2} --template a.jsonl", 1, ["a.jsonl: the template is empty"]),
    "template for rows without a prompt": (
        None,
        f"{BERT} reviews.jsonl --template alpaca",
        2,
        ["--template alpaca: rows of the kind 'text' have no prompt", "Leave it out"],
    ),
    # eval and predict
    "rows without labels to evaluate": (
        lines({"text": "a"}),
        f"{EVAL} a.jsonl",
        1,
        ["a.jsonl: no column 'label', which the task classify needs"],
    ),
    "a label that the delta does not know": (
        lines({"text": "a", "label": 2}),
        f"{EVAL} a.jsonl",
        1,
        ["a.jsonl, line 1: the label 2 is out of range: there are 2 classes"],
    ),
    "names that the delta does not know": (
        NAMED,
        f"{EVAL} a.jsonl",
        1,
        ["a.jsonl: holds the labels neg, pos", "data.labels=[...]"],
    ),
    "truncated rows to evaluate": (lines(GOOD, BAD)[:-9], f"{EVAL} a.jsonl", 1, ["a.jsonl, line 2: not JSON"]),
    "too long rows to evaluate": (
        None,
        f"{EVAL} reviews.jsonl --seq-len 900",
        2,
        ["--seq-len 900 is more than the 24 positions"],
    ),
    "nothing to evaluate": (
        None,
        "eval --base bert --delta bert-lora",
        2,
        ["--data is missing", "Example: --data dev.jsonl"],
    ),
    "nothing to predict": ("", PREDICT.format("bert"), 1, ["a.jsonl: the file is empty"]),
    "other columns to predict": (
        lines({"review": "a"}),
        PREDICT.format("bert"),
        1,
        ["a.jsonl: the columns review do not fit the task classify", "data.columns.text=NAME"],
    ),
    "texts for a delta of prompts": (
        lines({"text": "a"}),
        PREDICT.format("gpt2"),
        1,
        ["a.jsonl: the columns text do not fit the task instruct"],
    ),
    "a prompt that fills the model": (
        lines(SUM, {"prompt": "x" * 99}),
        PREDICT.format("gpt2"),
        1,
        ["a.jsonl, line 2: a prompt of 48 tokens leaves no room", "smaller --seq-len"],
    ),
    "prompts that fill the model while training": (
        lines(SUM, {"prompt": "x" * 99, "completion": "y"}),
        f"{GPT2} --eval-data a.jsonl --set eval.metrics=exact_match",
        1,
        ["a.jsonl, line 2: a prompt of 48 tokens leaves no room for an answer"],
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_rows_against_the_rest(place, refused, name):
    content, line, code, words = COMMANDS[name]
    (place / "named.jsonl").write_text(NAMED)
    if content is not None:
        (place / "a.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(line, words, code)


def test_the_plan_warns_of_text_that_the_tokenizer_does_not_know(place, petrun):
    (place / "a.jsonl").write_text(
        lines({"text": "这 film is 好", "label": 1}, {"text": "this film is bad", "label": 0})
    )
    done = petrun("train --base bert --data a.jsonl --algo lora --dry-run")
    assert done.code == 0 and "12 tokens (2 unknown)" in done.out
    assert (
        "warning  16.7% of the tokens of data are unknown to the tokenizer: '这', '好'. Their text is lost" in done.out
    )
