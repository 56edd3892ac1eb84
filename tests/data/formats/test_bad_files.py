"""Files that cannot be read as rows: each with the message that leads out."""

import gzip
import io
import json
import os
import tarfile

import numpy as np
import pytest

from petrun.errors import DataError
from tests.data.loading import read_examples

GOOD = {"text": "good film", "label": 1}


def lines(*rows):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def tar():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("rows.jsonl"))
    return out.getvalue()


def npz(**arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


# name: (file, content, task, message, part of the hint); the file's path stands before every message that begins with "F"
CASES = {
    "empty": ("a.jsonl", "", None, "F: the file is empty", "at least one row"),
    "white space only": ("a.tsv", " \n\n\t\n", None, "F: the file is empty", "at least one row"),
    "BOM only": ("a.tsv", b"\xef\xbb\xbf\n", None, "F: the file is empty", ""),
    "truncated JSONL": (
        "a.jsonl",
        lines(GOOD) + '{"text": "go',
        None,
        "F, line 2: not JSON: Unterminated string",
        "cut off",
    ),
    "broken line of JSONL": (
        "a.jsonl",
        lines(GOOD, '{"text" "x"}', GOOD),
        None,
        "F, line 2: not JSON",
        "every line is one whole JSON",
    ),
    "a list as a row": (
        "a.jsonl",
        lines(GOOD, "[1, 2]"),
        None,
        "F, line 2: a row must be an object with named columns, found a list",
        '{"text"',
    ),
    "null as a row": (
        "a.jsonl",
        lines(GOOD, "null"),
        None,
        "F, line 2: a row must be an object with named columns, found null",
        "",
    ),
    "empty object": ("a.jsonl", lines(GOOD, "{}"), None, "F, line 2: the object is empty", ""),
    "a key twice": (
        "a.jsonl",
        '{"text": "a", "text": "b", "label": 1}\n',
        None,
        "F, line 1: the key 'text' stands twice",
        "",
    ),
    "truncated JSON": ("a.json", json.dumps([GOOD, GOOD], indent=1)[:-30], None, "F, line 7: not JSON", "cut off"),
    "JSON number": (
        "a.json",
        "[1, 2]",
        None,
        "F, line 1: a row must be an object with named columns, found a number",
        "",
    ),
    "JSON without rows": (
        "a.json",
        '{\n"rows": []\n}',
        None,
        "F: expected a list of rows, found an object with the keys rows",
        '{"data"',
    ),
    "JSON with no rows": ("a.json", "[]", None, "F: the list holds no rows", ""),
    "deep JSON": ("a.jsonl", "{" + '"a":[' * 100_000, None, "F", ""),
    "no JSON": ("a.jsonl", "hello there\n", None, "F, line 1: expected JSON, found 'hello there'", "data.format=text"),
    "CSV header only": ("a.csv", "text,label\n", None, "F: holds a header but no rows", "text, label"),
    "CSV too many cells": (
        "a.csv",
        "text,label\na,1\nb,c,0\n",
        None,
        "F, line 3: 3 cells, expected 2 (text, label)",
        "quotes",
    ),
    "CSV open quote": (
        "a.csv",
        'text,label\na,1\n"b,0\n',
        None,
        "F, line 3: a quote is opened and never closed",
        "doubled",
    ),
    "CSV column twice": (
        "a.csv",
        "text,label,text\na,1,b\n",
        None,
        "F, line 1: the header names the column 'text' twice",
        "text, label, text",
    ),
    "TSV too few cells": (
        "a.tsv",
        "text\tlabel\na\t1\nb\n",
        None,
        "F, line 3: 1 cell, expected 2 (text, label)",
        "tab",
    ),
    "TSV three columns, no header": (
        "a.tsv",
        "x\ty\tz\n1\t2\t3\n",
        None,
        "F, line 1: 3 columns between tabs and no header",
        "data.columns.text=",
    ),
    "TSV with an unknown header": (
        "a.tsv",
        "review\tsentiment\n" + "a\tpos\nb\tneg\n" * 3,
        None,
        "F, line 1: looks like a header with the unknown columns 'review' and 'sentiment'",
        "data.columns.text=review",
    ),
    "TSV with an unknown header, label first": (
        "a.tsv",
        "sentiment\treview\npos\ta film\nneg\tb film\npos\tc film\n",
        None,
        "F, line 1: looks like a header with the unknown columns 'sentiment' and 'review'",
        "data.columns.text=review --set data.columns.label=sentiment",
    ),
    "CSV with a Chinese header": (
        "a.csv",
        "文本,标签\n好电影,正\n烂片,负\n不错,正\n",
        None,
        "F, line 1: looks like a header with the unknown columns '文本' and '标签'",
        "data.columns.text=文本 --set data.columns.label=标签",
    ),
    "UTF-16 without BOM": (
        "a.tsv",
        "abc\t1\n".encode("utf-16-be"),
        None,
        "F: looks like UTF-16 without a byte order mark",
        "As utf-16-be it begins 'abc\\t1'. Where that is right: --set data.encoding=utf-16-be",
    ),
    "UTF-16 cut off": ("a.tsv", "abc\t1\n".encode("utf-16")[:-1], None, "F, line 1: byte 0x0a is not utf-16", "whole"),
    "latin-1": (
        "a.tsv",
        "a\t1\ncafé\t0\n".encode("latin-1"),
        None,
        "F, line 2: byte 0xe9 is not UTF-8, and the encoding cannot be told for certain",
        "That line reads: cp1252 'café\\t0'; cp1251 'cafй\\t0';",
    ),
    "one broken line of UTF-8": (
        "a.tsv",
        "这部电影很好看\t1\n演员的表现".encode() + b"\xe4\t0\n",
        None,
        "F, line 2: byte 0xe4 is not UTF-8, but line 1 is",
        "Mend that line",
    ),
    "two encodings": (
        "a.tsv",
        "这部电影很好看\t1\n".encode("gb18030") * 9 + "这部电影很好看\t1\n".encode(),
        None,
        "F, line 1: byte 0xd5 is not UTF-8, but line 10 is",
        "in one encoding",
    ),
    "NUL": ("a.txt", b"some text that goes on\nand \0 on\n", "lm", "F, line 2: holds a NUL byte", ""),
    "damaged gzip": ("a.jsonl", b"\x1f\x8b\x08abc", None, "F: the gzip file is damaged or cut short", "again"),
    "an empty gzip": ("a.jsonl.gz", gzip.compress(b"\n"), None, "F: the file is empty", "at least one row"),
    "a tar archive": ("a.tgz", tar(), None, "F: is a tar archive", "Unpack it"),
    "gzip twice": ("a.jsonl.gz", gzip.compress(gzip.compress(b"x")), None, "F, line 1: ", ""),
    "a single array": ("a.npz", b"\x93NUMPY\x01\x00", None, "F: is a single .npy array", "numpy.savez"),
    "renamed npz": ("a.npz", "text", None, "F: is not a npz file", "renamed"),
    "renamed parquet": ("a.parquet", "text", None, "F: is not a parquet file (it does not begin with PAR1)", ""),
    "truncated npz": (
        "a.npz",
        npz(x=np.zeros((4, 4)), label=[0, 1, 1, 0])[:-40],
        None,
        "F: the npz archive is damaged",
        "cut short",
    ),
    "npz of objects": (
        "a.npz",
        npz(x=np.array([{}, 1], object), label=[0, 1]),
        None,
        "F: an array cannot be read",
        "plain numbers",
    ),
    "npz of unequal length": (
        "a.npz",
        npz(x=np.zeros((4, 2)), label=[0, 1]),
        None,
        "F: arrays of different length: x 4, label 2",
        "first axis",
    ),
    "npz of a number": ("a.npz", npz(x=np.float32(1.0)), None, "F: array 'x' is a single number", ""),
    "npz without rows": (
        "a.npz",
        npz(x=np.zeros((0, 2)), label=np.zeros(0, int)),
        None,
        "F: the arrays hold no rows",
        "",
    ),
    "npz of strings": (
        "a.npz",
        npz(x=np.array(["a", "b"]), label=[0, 1]),
        None,
        "array 'x' has the type <U1, expected numbers",
        "",
    ),
    "npz with NaN": (
        "a.npz",
        npz(x=np.array([[0.0], [np.nan]]), label=[0, 1]),
        None,
        "F, row 2: array 'x' holds NaN or infinity",
        "1 such",
    ),
    "npz without label": ("a.npz", npz(x=np.zeros((2, 2))), None, "F: no array 'label'", "Arrays found: x"),
    "npz with one-hot labels": (
        "a.npz",
        npz(x=np.zeros((2, 2)), label=np.eye(2, dtype=int)),
        None,
        "F: array 'label' has the shape (2, 2)",
        "argmax",
    ),
    "npz with labels alone": ("a.npz", npz(label=[0, 1]), None, "F: no array besides the label", ""),
    "npz for lm": ("a.npz", npz(x=np.zeros((2, 2))), "lm", "F: arrays can be classified only, not --task lm", ""),
    "npz label NaN": (
        "a.npz",
        npz(x=np.zeros((2, 2)), label=np.array([0.0, np.nan])),
        None,
        "F, row 2: the label is nan",
        "",
    ),
    "a zip of other files": ("a.npz", b"PK\x03\x04nonsense", None, "F: the npz archive is damaged", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_files(refused, case):
    refused(*CASES[case])


def test_the_table_is_long_enough():
    assert len(CASES) >= 43


def test_a_missing_file_names_its_neighbours(write):
    path = write("train.jsonl", [GOOD])
    with pytest.raises(DataError, match="no such data file") as caught:
        read_examples(path.with_name("trian.jsonl"), task=None, tokenizer=None, seq_len=8)
    assert "train.jsonl" in caught.value.hint


def test_an_unreadable_file(write, monkeypatch):
    path = write("train.jsonl", [GOOD])

    def refuse(self, mode):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(DataError, match=r"train.jsonl: cannot be read: Permission denied"):
        read_examples(path, task=None, tokenizer=None, seq_len=8)
