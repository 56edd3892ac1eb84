"""A file format is one record in one table: a new one is a file with its reader and a line."""

import pytest

from petrun.data.formats import table
from petrun.data.formats.format import Format
from petrun.data.formats.records import Records
from petrun.data.formats.source import read_source
from petrun.errors import ConfigError, DataError, SetupError
from tests.program import call
from tests.tiny import write_base

MARK = "!arrows"


def read_arrows(content):
    lines = content.text.splitlines()[1:]
    rows = [dict(zip(("prompt", "completion"), line.split(" -> "), strict=True)) for line in lines]
    return Records(content.source.path, ("prompt", "completion"), rows, list(range(2, len(rows) + 2)))


ARROWS = Format(
    name="arrows",
    suffixes=(".arrows",),
    read=read_arrows,
    recognise=lambda content: content.first_line == MARK,
    unit="arrow",
)


@pytest.fixture
def arrows(monkeypatch):
    """The table with one line more."""
    monkeypatch.setattr(table, "FORMATS", (ARROWS, *table.FORMATS))


@pytest.fixture
def rows(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "orders.arrows").write_text(f"{MARK}\n1+2= -> 3\n2+2= -> 4\n3+4= -> 7\n")
    return folder


def test_the_commands_read_a_new_format(arrows, rows, tmp_path, monkeypatch, capfd):
    """Given the record, train --dry-run finds the file in its folder, recognises it, reads it and shows its rows."""
    write_base(tmp_path / "gpt2", "gpt2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    line = ["train", "--base", "gpt2", "--data", "rows", "--algo", "lora", "--rank", "2", "--steps", "1", "--dry-run"]
    for more in ([], ["--set", "data.format=arrows"]):
        assert call([*line, *more]) == 0
        out = capfd.readouterr().out
        assert "3 rows for instruct" in out and "orders.arrows, arrow 2" in out and "1+2=" in out


def test_the_record_says_how_its_rows_are_named(arrows, rows):
    records = table.read_records(rows / "orders.arrows")
    assert (records.format, records.where(0)) == ("arrows", f"{rows / 'orders.arrows'}, arrow 2")


def test_without_the_line_the_file_is_plain_text(rows):
    assert table.read_records(rows / "orders.arrows").format == "text"
    with pytest.raises(ConfigError, match="unknown format 'arrows'"):
        table.find_format("arrows")


def test_names_and_suffixes_are_given_once():
    names = [each.name for each in table.FORMATS]
    suffixes = table.data_suffixes()
    assert len(set(names)) == len(names) and len(set(suffixes)) == len(suffixes)
    assert all(table.suffix_format(suffix).name in names for suffix in suffixes)


def read_with_package(content):
    import no_such.part  # noqa: F401


def test_a_package_that_is_missing_is_named(rows, monkeypatch):
    needing = Format(
        name="arrows",
        suffixes=(".arrows",),
        read=read_with_package,
        recognise=lambda content: False,
        requires="no_such",
        extra="x",
    )
    monkeypatch.setattr(table, "FORMATS", (needing,))
    with pytest.raises(SetupError, match="reading arrows needs the package no_such") as caught:
        table.read_records(rows / "orders.arrows", format="arrows")
    assert caught.value.hint == "pip install 'petrun[x]'"


def test_a_suffix_that_the_content_contradicts(rows, monkeypatch):
    refusing = Format(
        name="arrows",
        suffixes=(".arrows",),
        read=read_arrows,
        recognise=lambda content: False,
        mismatch=lambda content: DataError(f"{content.source.path}: no arrows"),
    )
    monkeypatch.setattr(table, "FORMATS", (refusing,))
    with pytest.raises(DataError, match="no arrows"):
        table.detect_format(read_source(rows / "orders.arrows"))
