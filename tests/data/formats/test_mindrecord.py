"""MindRecord: what MindSpore's own reader gives for what petrun writes, and the other way round."""

import numpy as np
import pytest

from petrun.data.formats.mindrecord import write_mindrecord
from petrun.data.formats.table import read_records
from petrun.errors import DataError


def test_mindspores_reader_reads_what_petrun_wrote(tmp_path):
    from mindspore.mindrecord import FileReader

    path = tmp_path / "rows.mindrecord"
    write_mindrecord(path, ("text", "label"), [[{"text": "你好", "label": 1}], [{"text": "x", "label": 2}]])
    reader = FileReader(str(path))
    assert list(reader.get_next()) == [{"label": 1, "text": "你好"}, {"label": 2, "text": "x"}]
    reader.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.mindrecord", "rows.mindrecord.db"]


def test_petrun_reads_what_mindspores_writer_wrote(tmp_path):
    from mindspore.mindrecord import FileWriter

    path = tmp_path / "rows.mindrecord"
    writer = FileWriter(str(path), shard_num=1)
    writer.add_schema({"input_ids": {"type": "int32", "shape": [-1]}, "text": {"type": "string"}}, "rows")
    writer.write_raw_data([{"input_ids": np.array([1, 2], np.int32), "text": "a"}])
    writer.commit()
    records = read_records(path)
    assert records.format == "mindrecord" and records.rows == [{"input_ids": [1, 2], "text": "a"}]
    assert records.where(0) == f"{path}, row 1"


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "rows.mindrecord"
    write_mindrecord(path, ("text",), [[{"text": "a"}]])
    other = tmp_path / "other.mindrecord"
    other.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"its index other\.mindrecord\.db is missing"):
        read_records(other)
    (tmp_path / "other.mindrecord.db").write_bytes((tmp_path / "rows.mindrecord.db").read_bytes())
    with pytest.raises(DataError, match="the MindRecord file is damaged"):
        read_records(other)
    other.write_text("not a record")
    with pytest.raises(DataError, match="is not a MindRecord file"):
        read_records(other)


def test_a_number_that_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"row 2: column 'label' holds numbers, found 'x'"):
        write_mindrecord(tmp_path / "rows.mindrecord", ("label",), [[{"label": 1}], [{"label": "x"}]])
    assert not list(tmp_path.iterdir())
