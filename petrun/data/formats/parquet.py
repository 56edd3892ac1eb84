"""Read parquet tables."""

from __future__ import annotations

from petrun.data.formats.format import FileContent, Format, wrong_first_bytes
from petrun.data.formats.records import Records
from petrun.errors import DataError

_MAGIC = "PAR1"


def read_parquet(content: FileContent) -> Records:
    """Read the rows of a parquet table.

    Raises: DataError for a damaged file.
    """
    import pyarrow
    import pyarrow.parquet

    source = content.source
    try:
        # Not by `read_table`, whose threads abort the process where a command ends soon after.
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(source.raw), pre_buffer=False)
        table = file.read(use_threads=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source.path}: the parquet file is damaged: {error}", hint="Was it cut short?") from error
    names = list(table.column_names)
    if len(set(names)) != len(names):
        raise DataError(f"{source.path}: two columns have the same name: {', '.join(names)}")
    rows = table.to_pylist()
    if not rows:
        raise DataError(f"{source.path}: the table holds no rows", hint=f"Columns found: {', '.join(names)}")
    return Records(source.path, tuple(names), rows, list(range(1, len(rows) + 1)))


PARQUET = Format(
    name="parquet",
    suffixes=(".parquet",),
    read=read_parquet,
    recognise=lambda content: content.source.head.startswith(_MAGIC.encode()),
    mismatch=wrong_first_bytes("parquet", _MAGIC),
    binary=True,
    unit="row",
    sorted_keys=True,
    requires="pyarrow",
    extra="parquet",
)
