"""Read npz archives: named arrays whose first axes are the rows."""

from __future__ import annotations

import io
import lzma
import tokenize
import zipfile
import zlib

import numpy as np

from petrun.data.formats.format import FileContent, Format, wrong_first_bytes
from petrun.data.formats.records import Records
from petrun.errors import DataError

# The errors of zipfile, its decompressors and numpy for archives with flipped or missing bytes, each seen (test_damaged_npz.py).
# RuntimeError: a member that is encrypted, or packed in a way that zipfile does not know. numpy reads headers as Python's expressions.
DAMAGED_NPZ = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError,
    SyntaxError, tokenize.TokenError, TypeError, IndexError, OverflowError, MemoryError,
)  # fmt: skip


def recognise_npz(content: FileContent) -> bool:
    """Return whether the content is a zip archive of arrays. Raises DataError for another one: spreadsheets are zip archives too."""
    source = content.source
    if not source.head.startswith(b"PK\x03\x04"):
        return False
    # Arrays are recognised by the names inside.
    if content.suffix_format != NPZ.name and b".npy" not in source.raw:
        raise DataError(
            f"{source.path}: is a zip archive, such as a spreadsheet, not rows of data",
            hint="Export it as CSV or JSONL, or unpack it.",
        )
    return True


def read_npz(content: FileContent) -> Records:
    """Read named arrays whose first axes are the rows.

    Raises: DataError for a damaged archive, pickled objects, arrays of different length.
    """
    source = content.source
    path = source.path
    if not source.head.startswith(b"PK"):
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
    return Records(path, tuple(arrays), [], [], arrays)


NPZ = Format(
    name="npz",
    suffixes=(".npz",),
    read=read_npz,
    recognise=recognise_npz,
    mismatch=wrong_first_bytes("npz", "PK"),
    binary=True,
    unit="row",
)
