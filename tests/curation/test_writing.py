"""Every format gives back what was written, as far as it has a form for it."""

import pytest

from petrun.curation.forms import FormConverter
from petrun.curation.reading import RowFiles
from petrun.curation.writing import check_row_suffix, row_writer
from petrun.errors import ConfigError, DataError
from tests.curation.rows import MIXED, row

CHATS = [FormConverter("messages")(row(cells)) for cells in MIXED]


def written(path, rows):
    with row_writer(path) as writer:
        for cells in rows:
            writer.write(cells)
    return list(RowFiles([str(path)]))


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet", "mindrecord"])
def test_rows_come_back(tmp_path, suffix):
    rows = written(tmp_path / f"rows.{suffix}", CHATS)
    found = [FormConverter("messages")(each) for each in rows]
    # Tables without types hold text.
    expected = [{**cells, "id": str(cells["id"])} if "id" in cells else cells for cells in CHATS]
    assert found == (expected if suffix in ("csv", "tsv", "mindrecord") else CHATS)


def test_numbers_keep_their_types_where_the_format_has_any(tmp_path):
    rows = [{"text": f"t{i}", "label": i, "score": i / 2} for i in range(5)]
    for suffix in ("parquet", "mindrecord", "json"):
        assert [each.cells for each in written(tmp_path / f"rows.{suffix}", rows)] == rows


def test_tsv_refuses_a_cell_that_it_has_no_form_for(tmp_path):
    with pytest.raises(DataError, match=r"rows.tsv, row 2: column 'b' holds a tab or a line end"):
        written(tmp_path / "rows.tsv", [{"a": "x", "b": "y"}, {"a": "x", "b": "y\ny"}])
    assert not list(tmp_path.iterdir())


def test_parquet_refuses_values_without_a_common_type(tmp_path):
    with pytest.raises(DataError, match="values of types that parquet cannot hold together"):
        written(tmp_path / "rows.parquet", [{"a": 1}, {"a": "one"}])
    assert not list(tmp_path.iterdir())


def test_a_writer_that_is_interrupted_leaves_nothing(tmp_path):
    for suffix in ("jsonl", "csv"):
        with pytest.raises(KeyError), row_writer(tmp_path / f"rows.{suffix}") as writer:
            writer.write({"a": "b"})
            raise KeyError
    assert not list(tmp_path.iterdir())


def test_an_unknown_suffix_is_refused():
    with pytest.raises(ConfigError, match=r"rows\.txt"):
        check_row_suffix("--out", "rows.txt")
