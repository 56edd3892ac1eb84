"""The figures of `petrun data stats` against counts by hand."""

import numpy as np
import pytest

from petrun.curation.histogram import bins_of, statistics_page, terminal_histogram
from petrun.curation.lengths import length_table, token_counter
from petrun.curation.parts import PartReader
from petrun.curation.reading import SKIP, RowFiles
from petrun.curation.statistics import row_statistics
from petrun.errors import DataError
from tests.curation.rows import write_jsonl
from tests.tiny import write_base

ROWS = [
    {"prompt": "one two", "completion": "three"},
    {"prompt": "One  two ", "completion": "THREE"},
    {"prompt": "one two", "completion": "four"},
    {"prompt": "five", "completion": ""},
    {"prompt": "six", "completion": "six"},
    {"prompt": "se\ufffd", "completion": "a\x07b"},
    {"text": "a film", "label": 1},
    {"numbers": [1]},
]


def test_rows_are_counted(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    with open(path, "a") as file:
        file.write("{\n")
    found = row_statistics(
        RowFiles([path], SKIP), PartReader(), lambda texts: [len(t.split()) for t in texts], lambda text: "en"
    ).facts()
    assert found["rows"] == 8 and found["kinds"] == {"completion": 6, "text": 1} and found["labels"] == {"1": 1}
    assert found["columns"]["completion"] == 5 and found["languages"] == {"en": 7}
    assert found["rows equal to an earlier one"] == 1 and found["questions equal to an earlier one"] == 2
    assert found["lengths"]["question characters"]["sum"] == sum(len(r.get("prompt", r.get("text", ""))) for r in ROWS)
    assert found["lengths"]["row tokens"] == {
        "mean": round(17 / 7, 2), "sum": 17, "p0": 1, "p5": 1, "p25": 2, "p50": 3, "p75": 3, "p95": 3, "p99": 3, "p100": 3,
    }  # fmt: skip
    odd = {what: each["first"] for what, each in found["odd"].items()}
    assert odd["a question without an answer"] == [f"{path}, line 4"]
    assert odd["question and answer are equal"] == [f"{path}, line 5"]
    assert odd["control characters"] == [f"{path}, line 6"] == odd["U+FFFD, the mark of a character that was lost"]
    assert odd["no text"][0].startswith(f"{path}, line 8: no text that this command knows")
    assert odd["cannot be read"][0].startswith(f"{path}, line 9: not JSON")


def test_bins_hold_all_rows_and_the_last_reaches_to_the_longest():
    values = np.concatenate([np.random.default_rng(0).integers(3, 90, 990), np.full(10, 5000)])
    found = bins_of(values)
    assert sum(count for *_, count in found) == 1000 and found[0][0] == 3 and found[-1][1] == 5000 and len(found) <= 12
    assert len(terminal_histogram(values).splitlines()) == len(found)
    assert bins_of(np.array([7, 7])) == [(7, 7, 2)]


def test_the_page_escapes_what_the_data_holds():
    page = statistics_page("<rows>", {"rows": 1, "labels": {"<script>": 1}}, {"answer characters": [1, 2]})
    assert "<script>" not in page and "&lt;script&gt;" in page and "&lt;rows&gt;" in page


def test_lengths_are_those_of_the_tokenizer(tmp_path):
    write_base(tmp_path / "gpt2", "gpt2")
    count = token_counter(str(tmp_path / "gpt2"))
    assert count(["abc", "", "é"]) == [3, 0, 2]
    assert length_table({"x": ["a", "bb", "ccc"]}, count, 2).splitlines()[1].split() == ["x", "2", "3", "3", "1"]
    with pytest.raises(DataError, match="holds no tokenizer"):
        token_counter(str(tmp_path))
