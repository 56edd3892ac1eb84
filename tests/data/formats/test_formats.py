"""Files -> rows, told by content."""

import json
import sys

import numpy as np
import pytest

from petrun.data.encode.arrays import plain_array
from petrun.data.formats.source import read_source
from petrun.data.formats.table import detect_format, read_records
from petrun.errors import ConfigError, DataError, SetupError

ROWS = [{"text": "a, b", "label": 1}, {"text": 'quote " and tab\there', "label": 0}]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
CASES = {
    "jsonl": ("rows.jsonl", JSONL, "jsonl", ROWS),
    "jsonl under another name": ("rows.csv", JSONL, "jsonl", ROWS),
    "one row of jsonl": ("rows.json", '{"text": "a", "label": 0}', "jsonl", [{"text": "a", "label": 0}]),
    "jsonl with blank lines, BOM and CRLF": (
        "rows.txt", "\ufeff" + JSONL.replace("\n", "\r\n\r\n"), "jsonl", ROWS,
    ),
    "json list": ("rows.json", json.dumps(ROWS, indent=1), "json", ROWS),
    "json list on one line": ("rows.dat", json.dumps(ROWS), "json", ROWS),
    "json under data": ("rows.json", json.dumps({"version": 1, "data": ROWS}), "json", ROWS),
    "csv": ("rows.csv", 'text,label\n"a, b",1\n"quote "" and\ttab",0\n', "csv", [
        {"text": "a, b", "label": "1"}, {"text": 'quote " and\ttab', "label": "0"},
    ]),
    "csv without a suffix": ("rows", "label,text\n1,a\n", "csv", [{"label": "1", "text": "a"}]),
    "csv with semicolons": ("rows.csv", "text;label\na, b;1\n", "csv", [{"text": "a, b", "label": "1"}]),
    "csv without header": ("rows.csv", '"a, b",1\nc,0\n', "csv", [
        {"text": "a, b", "label": "1"}, {"text": "c", "label": "0"},
    ]),
    "csv with a line break in a cell": ("rows.csv", 'text,label\r\n"a\r\nb",1\r\n', "csv", [{"text": "a\nb", "label": "1"}]),
    "tsv": ("rows.tsv", "sentence\tlabel\na \"b\t1\n", "tsv", [{"sentence": 'a "b', "label": "1"}]),
    "tsv without header": ("dev.tsv", "it 's good\t1\n\"bad\t0\n", "tsv", [
        {"text": "it 's good", "label": "1"}, {"text": '"bad', "label": "0"},
    ]),
    "tsv with a class that is called like a column": ("rows.tsv", "what is it\tquestion\nit is\tstatement\nwhy\tquestion\n", "tsv", [
        {"text": "what is it", "label": "question"}, {"text": "it is", "label": "statement"}, {"text": "why", "label": "question"},
    ]),
    "tsv under another name": ("rows.txt", "a\t1\nb\t0", "tsv", [{"text": "a", "label": "1"}, {"text": "b", "label": "0"}]),
    "text": ("rows.txt", "First\n\n  second, with [brackets]\n", "text", [
        {"text": "First"}, {"text": "  second, with [brackets]"},
    ]),
    "much white space before the first row": ("rows.txt", " \n" * 150_000 + "a\t1\nb\t0\n", "tsv", [
        {"text": "a", "label": "1"}, {"text": "b", "label": "0"},
    ]),
    "text that begins with a bracket": ("rows.txt", "[laughs] yes\nno\n", "text", [{"text": "[laughs] yes"}, {"text": "no"}]),
    "text with odd line separators": ("rows.txt", "one\u2028still one\x0cand\n", "text", [{"text": "one\u2028still one\x0cand"}]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_formats_are_told_by_content(write, case):
    name, content, kind, rows = CASES[case]
    records = read_records(write(name, content))
    assert records.format == kind
    assert records.rows == rows


def test_every_row_knows_its_line(write):
    assert read_records(write("a.jsonl", "\n" + JSONL.replace("\n", "\n\n"))).lines == [2, 4]
    assert read_records(write("b.json", '{"x": [1],\n"data"\n:\n[{"text":\n"a"},\n\n{"text": "b"}]}')).lines == [4, 7]
    assert read_records(write("c.csv", 'text,label\n"a\nb",1\n\nc,0\n')).lines == [2, 5]
    assert read_records(write("d.tsv", "a\t1\n\nb\t0\n")).lines == [1, 3]
    assert read_records(write("e.txt", "a\n\nb")).lines == [1, 3]


def test_plain_text_keeps_the_whole_stream(write):
    assert read_records(write("a.txt", "one\r\n\r\n two\n")).stream == "one\n\n two\n"


def test_json_rows_are_those_of_the_key_data_alone(write):
    path = write("rows.json", '{"about": {"data": [1]}, "data": [{"a": 1},\n {"a": 2}], "version": 3}')
    found = read_records(path)
    assert [row["a"] for row in found.rows] == [1, 2] and list(found.lines) == [1, 2]
    assert found.notes == (
        f'{path}: the rows are those under "data"; of the keys about, data, version no other is read',
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"a": 1},\n{"a": 2, "a": 3}]', "line 2: the key 'a' stands twice"),
        ('{"data": [{"a": 1}], "data": [{"a": 2}]}', "the key 'data' stands twice"),
    ],
)
def test_json_with_a_key_twice_is_refused_as_in_json_lines(write, text, said):
    with pytest.raises(DataError, match=said):
        read_records(write("rows.json", text))


def test_a_separator_splits_at_its_first_place(write):
    path = write("e2e.txt", "name : A | food : B||The A || B .\nname : C||C .\n")
    records = read_records(path, separator="||")
    assert records.rows == [
        {"input": "name : A | food : B", "reference": "The A || B ."},
        {"input": "name : C", "reference": "C ."},
    ]
    # The same settings read an evaluation file of JSON lines.
    assert read_records(write("x.jsonl", JSONL), separator="||").format == "jsonl"
    assert read_records(write("y.txt", "{a}||{b}\n"), separator="||").rows == [{"input": "{a}", "reference": "{b}"}]


def test_an_explicit_format_wins(write):
    path = write("rows.jsonl", "text\tlabel\na\t1\n")
    assert read_records(path, format="text").rows[0] == {"text": "text\tlabel"}
    assert read_records(path, format="tsv").rows == [{"text": "a", "label": "1"}]
    with pytest.raises(ConfigError, match="unknown format 'jsnl'") as caught:
        read_records(path, format="jsnl")
    assert "jsonl" in caught.value.hint


def test_max_rows(write):
    assert len(read_records(write("a.jsonl", JSONL), max_rows=1)) == 1
    assert len(read_records(write("b.jsonl", JSONL), max_rows=9)) == 2


def test_npz(tmp_path):
    path = tmp_path / "arrays.npz"
    np.savez(
        path,
        x=np.arange(6, dtype=np.float64).reshape(3, 2),
        ids=np.arange(3),
        pixels=np.zeros((3, 4), np.uint8),
        label=[0, 1, 1],
    )
    records = read_records(path)
    assert (records.format, len(records), records.where(1)) == ("npz", 3, f"{path}, row 2")
    assert tuple(records.arrays) == ("x", "ids", "pixels", "label")
    kept = {name: str(plain_array(records, name).dtype) for name in records.arrays}
    assert kept == {"x": "float32", "ids": "int32", "pixels": "uint8", "label": "int32"}
    assert len(read_records(path, max_rows=2)) == 2


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    messages = [[{"role": "user", "content": "hi"}], [{"role": "user", "content": "ho"}]]
    parquet.write_table(pyarrow.table({"messages": messages, "n": [1, None]}), path)
    records = read_records(path)
    assert records.rows == [{"messages": messages[0], "n": 1}, {"messages": messages[1], "n": None}]
    assert records.where(1) == f"{path}, row 2"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="the parquet file is damaged"):
        read_records(path)


def test_parquet_without_its_package(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SetupError, match="reading parquet needs the package pyarrow") as caught:
        read_records(write("rows.parquet", b"PAR1...PAR1"))
    assert caught.value.hint == "pip install 'petrun[parquet]'"


def test_the_digest_is_of_the_content(write):
    assert read_source(write("a.txt", "x")).digest == read_source(write("b.txt", "x")).digest
    assert read_source(write("a.txt", "x")).digest != read_source(write("b.txt", "y")).digest


def test_real_files(shared):
    for name, rows, kind in (
        ("sst2/train.tsv", 6920, "tsv"),
        ("sst2/dev.tsv", 872, "tsv"),
        ("tnews/train_few_all.json", 1185, "jsonl"),
        ("tinyshakespeare/input.txt", 32777, "text"),
    ):
        source = read_source(shared / "data" / name)
        assert (detect_format(source).name, len(read_records(source))) == (kind, rows)
    assert len(read_records(shared / "data/e2e/valid.txt", separator="||")) == 4672
