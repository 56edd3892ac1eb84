"""Rows come as a stream, in the file's order, and lines that are no rows are named, each with its line."""

import gzip

import pytest

from petrun.curation.reading import SKIP, STOP, RowFiles
from petrun.errors import DataError
from tests.curation.rows import MIXED, write_jsonl

BROKEN = b'{"a": \n[1]\n{"x":1,"x":2}\n{"text":"\\ud83d"}\n\n{"text":"\xff"}\n{"text":"h\xc3\xa9llo w\xc3\xb6rld, \xc3\xa7a v\xc3\xa0"}\n'
PROBLEMS = {
    2: "not JSON: Expecting value (column 7)",
    3: "a row must be an object with named columns, found a list",
    4: "the key 'x' stands twice in one object",
    5: "holds half of a surrogate pair, which is no character",
    7: "byte 0xff is not UTF-8",
}


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_bytes(b'{"text":"first"}\n' + BROKEN + b'{"text":"last"}\n' * 4)
    return str(path)


def test_every_line_that_cannot_be_read_is_named(broken):
    with pytest.raises(DataError) as caught:
        list(RowFiles([broken], STOP))
    first, *named = caught.value.message.split("\n")
    assert first == "5 rows cannot be read:"
    assert named == [f"  {broken}, line {line}: {problem}" for line, problem in PROBLEMS.items()]


def test_skipped_lines_are_handed_over_and_the_others_keep_their_numbers(broken):
    bad = []
    rows = list(RowFiles([broken], SKIP).rows(bad.append))
    assert [(row.line, row.cells["text"]) for row in rows[:2]] == [(1, "first"), (8, "héllo wörld, ça và")]
    assert len(rows) == 6 and {row.line: row.problem for row in bad} == PROBLEMS


def test_a_file_in_which_nothing_can_be_read_is_an_error_even_where_lines_are_skipped(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": \n{"b": \n')
    with pytest.raises(DataError, match="2 rows cannot be read"):
        list(RowFiles([str(path)], SKIP))


def test_at_most_twenty_lines_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": \n' * 50)
    with pytest.raises(DataError) as caught:
        list(RowFiles([str(path)]))
    assert caught.value.message.startswith("20 rows, and perhaps more, cannot be read:")


def test_slices_folders_and_compressed_files_are_read(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", MIXED)
    assert [row.line for row in RowFiles([f"{path}#1:3"])] == [2, 3]
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "rows.jsonl").read_bytes()))
    (folder / "b.csv").write_text("prompt,completion\nx,y\n")
    assert [row.where for row in RowFiles([str(folder)])][-2:] == [
        f"{folder}/a.jsonl.gz, line 5",
        f"{folder}/b.csv, line 2",
    ]


def test_another_encoding_is_read_as_training_reads_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        "".join(f'{{"text": "第{i}行：今天天气很好，我们去公园散步。"}}\n' for i in range(40)).encode("gb18030")
    )
    assert next(iter(RowFiles([str(path)]))).cells["text"].startswith("第0行：今天天气很好")


def test_how_a_file_was_read_is_told_once(tmp_path, capfd):
    path = tmp_path / "rows.csv"
    path.write_bytes(
        "".join(["text,label\r\n", *(f"第{i}行：今天天气很好,{i % 2}\r\n" for i in range(50))]).encode("gbk")
    )
    (tmp_path / "note.md").write_text("about")
    files = RowFiles([str(tmp_path)])
    assert len(list(files)) == len(list(files)) == 50
    said = capfd.readouterr().err
    assert said.count("read as gb18030") == 1 and said.count("left out: note.md") == 1


def test_an_encoding_that_cannot_be_told_is_named(tmp_path):
    for name, text in (
        ("rows.csv", "prompt,completion\n你好,再见\n"),
        ("rows.jsonl", '{"prompt": "你好", "completion": "再见"}\n'),
    ):
        (tmp_path / name).write_bytes(text.encode("gbk"))
        with pytest.raises(DataError) as error:
            list(RowFiles([str(tmp_path / name)]))
        assert "--encoding NAME" in error.value.hint
        (found,) = RowFiles([str(tmp_path / name)], encoding="gbk")
        assert found.cells == {"prompt": "你好", "completion": "再见"}


def test_a_header_is_recognised_by_the_columns_that_the_user_names(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("\ufeff问题,答案\r\n" + "你好,好\r\n" * 3, encoding="utf-8")
    with pytest.raises(DataError, match="unknown columns") as error:
        list(RowFiles([str(path)]))
    assert "--source 问题 --target 答案" in error.value.hint
    rows = list(RowFiles([str(path)], columns=("问题", "答案")))
    assert len(rows) == 3 and rows[0].cells == {"问题": "你好", "答案": "好"}


def test_a_slice_is_held_against_the_file(tmp_path, capfd):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": str(i)} for i in range(5)])
    with pytest.raises(DataError, match="begins behind the last of the file's 5 rows"):
        list(RowFiles([f"{path}#5:"]))
    assert len(list(RowFiles([f"{path}#3:9"]))) == 2
    assert "asks for more than the file's 5 rows" in capfd.readouterr().err
