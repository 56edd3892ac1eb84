"""Compressed files, folders of files, and some rows of a file."""

import bz2
import gzip
import io
import json
import lzma

import numpy as np
import pytest
import zstandard

from petrun.data.formats.folder import read_sources
from petrun.data.formats.source import read_source
from petrun.data.formats.table import read_records
from petrun.errors import DataError
from tests.data.loading import read_examples

ROWS = [{"text": f"text {i}", "label": i % 2} for i in range(9)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CSV = ("text,label\n" + "".join(f"text {i},{i % 2}\n" for i in range(9))).encode()
PACKERS = {
    "gz": gzip.compress,
    "zst": zstandard.ZstdCompressor().compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}  # fmt: skip


def texts(path, **given):
    return [row["text"] for row in read_records(path, **given).rows]


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", JSONL), ("a.csv", CSV), ("a.json", json.dumps(ROWS).encode())]
)
def test_compressed(write, packer, name, content):
    path = write(f"{name}.{packer}", PACKERS[packer](content))
    records = read_records(path)
    assert [row["text"] for row in records.rows] == [row["text"] for row in ROWS]
    assert records.format == name.partition(".")[2] and records.where(0).startswith(str(path))
    assert read_source(path).digest == read_source(write(name, content)).digest


@pytest.mark.parametrize("packer", PACKERS)
def test_a_compressed_file_that_is_cut_short(write, packer):
    packed = PACKERS[packer](JSONL * 50)
    for end in (len(packed) // 2, len(packed) - 3):
        with pytest.raises(DataError, match="file is damaged or cut short"):
            read_source(write(f"a.jsonl.{packer}", packed[:end]))


def test_compressed_in_several_parts(write):
    """`cat a.gz b.gz` is a whole gzip file; so is it with the others."""
    half = JSONL.index(b"\n") + 1
    for packer, pack in PACKERS.items():
        assert texts(write(f"a.jsonl.{packer}", pack(JSONL[:half]) + pack(JSONL[half:]))) == texts(
            write("a.jsonl", JSONL)
        )


def test_compressed_arrays_and_tables(write):
    pyarrow = pytest.importorskip("pyarrow", exc_type=ImportError)
    parquet = pytest.importorskip("pyarrow.parquet", exc_type=ImportError)
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), out)
    assert texts(write("a.parquet.gz", gzip.compress(out.getvalue()))) == texts(write("a.jsonl", JSONL))
    out = io.BytesIO()
    np.savez(out, x=np.arange(4.0), label=np.arange(4))
    records = read_records(write("a.npz.zst", PACKERS["zst"](out.getvalue())))
    assert records.arrays["x"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("#3", range(3)),
        ("#0:3", range(3)),
        ("#:3", range(3)),
        ("#2:5", range(2, 5)),
        ("#7:", range(7, 9)),
        ("#50", range(9)),
    ],
)
@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", JSONL), ("a.csv", CSV), ("a.csv.gz", gzip.compress(CSV))],
    # A gzip file holds the time, and test names must be the same in every process.
    ids=["jsonl", "csv", "csv.gz"],
)
def test_slices(write, name, content, part, expected):
    path = write(name, content)
    records = read_records(f"{path}{part}")
    assert [row["text"] for row in records.rows] == [f"text {i}" for i in expected]
    header = "csv" in name
    assert records.where(0) == f"{path}, line {expected[0] + 1 + header}"
    assert [note.endswith("more than the file's 9 rows") for note in records.notes] == [True] * (part == "#50")
    assert read_source(f"{path}{part}").digest != read_source(path).digest


def test_slices_of_arrays_and_of_plain_text(tmp_path, write, bpe):
    np.savez(tmp_path / "a.npz", x=np.arange(5.0), label=np.arange(5))
    records = read_records(f"{tmp_path}/a.npz#1:3")
    assert records.arrays["x"].tolist() == [1, 2] and records.where(0).endswith("row 2")
    path = write("a.txt", "one\n\ntwo\nthree\n")
    assert read_records(f"{path}#1:3").stream == "two\nthree\n"
    part = read_examples(f"{path}#1:3", task="lm", tokenizer=bpe, seq_len=64)
    whole = read_examples(write("b.txt", "two\nthree\n"), task="lm", tokenizer=bpe, seq_len=64)
    assert part.flat["input_ids"].tolist() == whole.flat["input_ids"].tolist()


def test_a_name_that_looks_like_a_slice(write):
    write("a.jsonl", JSONL)
    path = write("a.jsonl#2", JSONL[: JSONL.index(b"\n") + 1])
    assert texts(path) == ["text 0"]
    assert texts(f"{path}#1") == ["text 0"]
    assert len(texts(write("week#3.jsonl", JSONL))) == 9


@pytest.mark.parametrize(
    ("part", "message", "hint"),
    [
        ("#0", "the slice holds no row", "#500 is the first 500 rows"),
        ("#5:5", "the slice holds no row", ""),
        ("#9:12", "#9:12 begins behind the last of the file's 9 rows", ""),
        ("#-3", "no such data file", "takes its first 500 rows"),
        ("#x", "no such data file", "takes its first 500 rows"),
    ],
)
def test_bad_slices(write, part, message, hint):
    path = write("a.jsonl", JSONL)
    with pytest.raises(DataError, match=message) as caught:
        read_records(f"{path}{part}")
    assert hint in caught.value.hint


def folder(tmp_path, **files):
    place = tmp_path / "rows"
    place.mkdir()
    for name, content in files.items():
        (place / name.replace("_", ".")).write_bytes(content)
    return place


def test_a_folder(tmp_path, word_piece):
    place = folder(tmp_path, **{"part-10_jsonl": JSONL, "part-2_csv_gz": gzip.compress(CSV), "README_md": b"# read me"})
    (place / ".hidden.jsonl").write_bytes(b"{")
    assert [source.path.name for source in read_sources(place)] == ["part-2.csv.gz", "part-10.jsonl"]
    rows = read_examples(place, task=None, tokenizer=word_piece, seq_len=16)
    assert len(rows) == 18 and [name.rpartition("/")[2] for name in rows.files] == ["part-2.csv.gz", "part-10.jsonl"]
    assert rows.notes == (f"{place}: 2 files read; left out: README.md",)
    # A weight is of the folder, however many files it holds.
    twice = read_examples([place, place / "part-10.jsonl"], task=None, tokenizer=word_piece, seq_len=16, weights=(2, 1))
    assert len(twice) == 2 * 18 + 9


def test_folders_that_are_refused(tmp_path):
    place = folder(tmp_path, README_md=b"# read me")
    with pytest.raises(DataError, match="the folder holds no data file") as caught:
        read_sources(place)
    assert "It holds: README.md" in caught.value.hint
    (place / "sst2-train.tsv").write_bytes(b"a\t1\n")
    assert len(read_sources(place)) == 1
    (place / "dev.tsv").write_bytes(b"a\t1\n")
    with pytest.raises(DataError, match="parts of a data set that must not be mixed: train, validation") as caught:
        read_sources(place)
    assert "dev.tsv, sst2-train.tsv" in caught.value.hint
    with pytest.raises(DataError, match="is a folder, and #5 takes rows of one file"):
        read_sources(f"{place}#5")
    with pytest.raises(DataError, match="is a folder, expected a data file"):
        read_source(place)
