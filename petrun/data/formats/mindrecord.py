"""Read and write MindRecord, MindSpore's own format of data files: a file, and an index of the same name with `.db` after it.

A field holds text, a number, bytes or an array of numbers. Lists and objects are written as JSON text, which petrun reads as what they are.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from petrun.data.formats.format import FileContent, Format
from petrun.data.formats.records import Records
from petrun.errors import DataError
from petrun.tensors.atomic import output_error, refuse_special
from petrun.typing import JsonObject

_INDEX = ".db"
_MARK = b'{"header_size":'
# A number of eight bytes stands before the header.
_MARK_BYTES = slice(8, 8 + len(_MARK))


def read_mindrecord(content: FileContent) -> Records:
    """Read the rows. Raises DataError for a damaged or compressed file, and for one without its index."""
    from mindspore.mindrecord import FileReader

    source = content.source
    index = Path(f"{source.path}{_INDEX}")
    if source.content is not None:
        raise DataError(f"{source.path}: MindRecord is read from its own file", hint="Decompress it first.")
    if not index.is_file():
        raise DataError(
            f"{source.path}: its index {index.name} is missing",
            hint="MindRecord's writer put it beside the file: copy both.",
        )
    try:
        reader = FileReader(str(source.path))
        try:
            rows = [{name: _plain(value) for name, value in row.items()} for row in reader.get_next()]
        finally:
            reader.close()
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"{source.path}: the MindRecord file is damaged: {str(error).splitlines()[0]}",
            hint="Was it renamed, or cut short? The index belongs to one name and one content.",
        ) from error
    if not rows:
        raise DataError(f"{source.path}: the file holds no rows")
    return Records(source.path, tuple(rows[0]), rows, list(range(1, len(rows) + 1)))


def _plain(value: Any) -> object:
    """Return an array as a list, and a number of numpy as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def write_mindrecord(path: Path, columns: Sequence[str], batches: Iterable[list[JsonObject]]) -> None:
    """Write rows as MindRecord, the file and its index. A field is of numbers where all values of the first batch are; else it is text.

    Raises: OutputError; DataError for a row that lacks a number, and for a name that MindRecord does not take.
    """
    from mindspore.mindrecord import FileWriter

    refuse_special(path)
    try:
        # The index holds the file's name, so both are written under it, in another folder.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".petrun-") as folder:
            made = Path(folder) / path.name
            writer, kinds, done = FileWriter(str(made), shard_num=1, overwrite=True), dict[str, str](), 0
            for batch in batches:
                if not kinds:
                    kinds = {name: _kind([row.get(name) for row in batch]) for name in columns}
                    writer.add_schema({name: {"type": kind} for name, kind in kinds.items()}, "rows")
                writer.write_raw_data(
                    [_fields(row, kinds, f"{path}, row {done + i}") for i, row in enumerate(batch, 1)]
                )
                done += len(batch)
            writer.commit()
            for name in (path.name, f"{path.name}{_INDEX}"):
                os.replace(Path(folder) / name, path.parent / name)
    except OSError as error:
        raise output_error(path, error) from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"{path}: MindRecord does not take these rows: {str(error).splitlines()[0]}") from error


def _kind(values: Sequence[object]) -> str:
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return "int64"
    return "float64" if all(isinstance(value, float) for value in values) else "string"


def _fields(row: JsonObject, kinds: dict[str, str], where: str) -> JsonObject:
    found: JsonObject = {}
    for name, kind in kinds.items():
        value = row.get(name)
        if kind == "string":
            found[name] = (
                value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
            )
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = int(value) if kind == "int64" and value == int(value) else value
        else:
            raise DataError(f"{where}: column '{name}' holds numbers, found {str(value)[:40]!r}")
    return found


MINDRECORD = Format(
    name="mindrecord",
    suffixes=(".mindrecord",),
    read=read_mindrecord,
    recognise=lambda content: content.source.head[_MARK_BYTES] == _MARK,
    mismatch=lambda content: DataError(
        f"{content.source.path}: is not a MindRecord file", hint="Was it cut short, or renamed?"
    ),
    binary=True,
    unit="row",
)
