"""Read tab-separated values. Cells are read unchanged: quotes are text."""

from __future__ import annotations

from collections.abc import Iterator

from petrun.data.formats.delimited_parts import Delimiter, read_table
from petrun.data.formats.format import FileContent, Format
from petrun.data.formats.records import Records

_TAB = Delimiter(name="tabs", hint="A tab inside a cell splits it.")


def recognise_tsv(content: FileContent) -> bool:
    """Return whether the lines have the same number of tabs."""
    tabs = {line.count("\t") for line in content.whole_lines[:100]}
    return not content.begins_as_json and len(tabs) == 1 and tabs != {0}


def read_tsv(content: FileContent) -> Records:
    """Read the rows. Raises DataError as `read_table`."""
    return read_table(content, list(_table(content.text)), _TAB)


def _table(text: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.split("\t")


TSV = Format(name="tsv", suffixes=(".tsv", ".tab"), read=read_tsv, recognise=recognise_tsv)
