"""npz arrays and parquet tables -> rows."""

from __future__ import annotations

import io
import lzma
import tokenize
import zipfile
import zlib

import numpy as np

from petrun.data.formats.records import Records
from petrun.data.formats.source import Source
from petrun.errors import DataError, SetupError

# What zipfile, its decompressors and numpy raise for archives with flipped or missing bytes, each seen (test_damaged_npz.py).
# RuntimeError: a member that is encrypted, or packed in a way that zipfile does not know. numpy reads headers as Python's expressions.
DAMAGED_NPZ = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError,
    SyntaxError, tokenize.TokenError, TypeError, IndexError, OverflowError, MemoryError,
)  # fmt: skip


def read_npz(source: Source) -> Records:
    """Named arrays whose first axes are the rows.

    Raises: DataError for a damaged archive, pickled objects, arrays of different length.
    """
    path = source.path
    if not source.raw.startswith(b"PK"):
        raise DataError(f"{path}: is not a npz file (it does not begin with PK)", hint="Was it cut short, or renamed?")
    try:
        with np.load(io.BytesIO(source.raw), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except DAMAGED_NPZ as error:
        raise DataError(
            f"{path}: the npz archive is damaged: {error}", hint="Was it cut short? Write it again with numpy.savez."
        ) from error
    except ValueError as error:
        raise DataError(
            f"{path}: an array cannot be read: {error}",
            hint="Arrays of Python objects are refused: store plain numbers.",
        ) from error
    if not arrays:
        raise DataError(f"{path}: the archive holds no arrays", hint="numpy.savez(file, x=..., label=...)")
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise DataError(
                f"{path}: '{name}' is no .npy array, so this zip is no npz file",
                hint=f"It holds: {', '.join(list(arrays)[:10])}",
            )
        if array.ndim == 0:
            raise DataError(f"{path}: array '{name}' is a single number; its first axis must be the rows")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"{path}: arrays of different length: {', '.join(f'{n} {c}' for n, c in lengths.items())}",
            hint="Every first axis is the rows.",
        )
    if not next(iter(lengths.values())):
        raise DataError(f"{path}: the arrays hold no rows")
    return Records(path, "npz", tuple(arrays), [], [], arrays)


def read_parquet(source: Source) -> Records:
    """A parquet table, one row each.

    Raises: SetupError without pyarrow; DataError for a damaged file.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        # Also when a pyarrow is there that this numpy is too old for.
        found = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        raise SetupError(
            f"{source.path}: reading parquet needs the package pyarrow{found}", hint="pip install 'petrun[parquet]'"
        ) from error
    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(source.raw))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source.path}: the parquet file is damaged: {error}", hint="Was it cut short?") from error
    names = list(table.column_names)
    if len(set(names)) != len(names):
        raise DataError(f"{source.path}: two columns have the same name: {', '.join(names)}")
    rows = table.to_pylist()
    if not rows:
        raise DataError(f"{source.path}: the table holds no rows", hint=f"Columns found: {', '.join(names)}")
    return Records(source.path, "parquet", tuple(names), rows, list(range(1, len(rows) + 1)))
