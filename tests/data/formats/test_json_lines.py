"""Rows of JSON lines that are parsed when they are used."""

import gzip
import json
import os

import pytest

from petrun.data.formats import json_lines, source
from petrun.data.formats.json_lines import JsonLines
from petrun.data.formats.table import read_records
from petrun.errors import DataError

ROWS = [{"text": "a" * n, "label": n} for n in range(40)] + [{"text": "Grüße ☃", "extra": None}]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Blocks and chunks of a few rows."""
    monkeypatch.setattr(source, "_BLOCK_BYTES", 100)
    monkeypatch.setattr(json_lines, "_CHUNK_ROWS", 7)
    monkeypatch.setattr(json_lines, "_CHUNK_BYTES", 200)


@pytest.mark.parametrize(
    "begin, end", [("", "\n"), ("\ufeff", "\n"), ("", "\r\n"), ("\n \n", "\n\n"), ("\ufeff\n", "\n")]
)
def test_rows_by_the_places_of_their_lines(write, begin, end):
    lines = begin + end.join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    records = read_records(write("a.jsonl", lines))
    rows = records.rows
    assert isinstance(rows, JsonLines) and list(rows) == ROWS == rows and records.columns == ("text", "label", "extra")
    assert [rows[i] for i in (0, 17, -1)] == [ROWS[0], ROWS[17], ROWS[-1]]
    assert rows[3:30][2:5] == ROWS[5:8] and rows.take([1, 5, 40]) == [ROWS[1], ROWS[5], ROWS[40]]
    numbers = [i for i, line in enumerate(lines.replace("\r\n", "\n").split("\n"), 1) if line.strip("\ufeff \n")]
    assert [records.line(i) for i in range(len(rows))] == numbers
    chunks = rows.chunks()
    assert [start for start, _ in chunks] == [0, *(stop for _, stop in chunks[:-1])] and chunks[-1][1] == len(ROWS)
    assert max(stop - start for start, stop in chunks) in (6, 7) and len(chunks) > 6, "some are cut by their bytes"
    assert records.loaded(5, 9).rows == ROWS[5:9]


def test_lines_that_end_with_a_carriage_return_alone(write):
    assert read_records(write("a.jsonl", '{"text": "a"}\r{"text": "b"}\r')).rows == [{"text": "a"}, {"text": "b"}]


def test_a_compressed_file(write):
    records = read_records(write("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n{"text": "b"}')))
    assert isinstance(records.rows, JsonLines) and records.rows == [{"text": "a"}, {"text": "b"}]


def test_a_file_that_changes_is_refused(write):
    """Rows of before and after must not be mixed under one digest."""
    path = write("a.jsonl", ROWS)
    records = read_records(path)
    os.utime(path, (1, 1))
    with pytest.raises(DataError, match="changed while it was read"):
        list(records.rows)
    records = read_records(path)
    with path.open("a") as file:
        file.write("{}\n")
    with pytest.raises(DataError, match="changed while it was read"):
        records.loaded(0, 3)
