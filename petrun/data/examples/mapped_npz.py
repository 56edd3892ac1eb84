"""Write and map .npz files: arrays of any size are read from the disk when they are used, not before.

numpy reads these files like any other .npz. Their arrays are stored without compression and begin at multiples of 64 bytes of the file,
so that they can be mapped into memory.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from petrun.data.examples.array_store import map_array, pieces
from petrun.data.formats.records import Array

_NPY: Any = np.lib.format
_ALIGNMENT = 64
_LOCAL_HEADER = struct.Struct("<4s22sHH")
"""A member's local header: signature, fields that the directory has as well, lengths of name and of extra fields."""
_PADDING = struct.Struct("<HH")
"""An extra field: its kind and the number of bytes that follow."""
_PADDING_KIND = 0xD935
_ZIP64_BYTES = 20
_READ_BYTES = 2**22


def write_npz(file: BinaryIO, arrays: Mapping[str, Array]) -> None:
    """Write the arrays, a few megabytes at a time. Raises OSError."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            before = (
                archive.start_dir + _LOCAL_HEADER.size + len(member.filename.encode()) + _ZIP64_BYTES + _PADDING.size
            )
            padding = -before % _ALIGNMENT
            member.extra = _PADDING.pack(_PADDING_KIND, padding) + bytes(padding)
            with archive.open(member, "w", force_zip64=True) as out:
                _NPY.write_array_header_1_0(out, _NPY.header_data_from_array_1_0(array))
                for part in pieces(array):
                    out.write(np.ascontiguousarray(part).data)


def map_npz(path: Path) -> dict[str, Array]:
    """Map every array of a file that `write_npz` has written, read-only, after comparing its checksum.

    Raises OSError; BadZipFile, ValueError, EOFError and struct.error for a file that is damaged or was written otherwise.
    """
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        return {member.filename.removesuffix(".npy"): _map_member(file, member) for member in archive.infolist()}


def _map_member(file: BinaryIO, member: zipfile.ZipInfo) -> Array:
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError("compressed")
    file.seek(member.header_offset)
    _, _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    start = member.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    file.seek(start)
    if _NPY.read_magic(file) != (1, 0):
        raise ValueError("another version of .npy")
    shape, fortran, dtype = _NPY.read_array_header_1_0(file)
    offset = file.tell()
    size = int(np.prod(shape)) * dtype.itemsize
    if fortran or dtype.hasobject or offset - start + size != member.file_size:
        raise ValueError("not the array that the directory describes")
    _require_checksum(file, start, member)
    return map_array(file, dtype, offset, shape) if size else np.zeros(shape, dtype)


def _require_checksum(file: BinaryIO, start: int, member: zipfile.ZipInfo) -> None:
    # The file is read, not mapped, for this: its pages do not count as memory of this process.
    file.seek(start)
    left, checksum = member.file_size, 0
    while left:
        part = file.read(min(left, _READ_BYTES))
        if not part:
            raise EOFError
        checksum = zlib.crc32(part, checksum)
        left -= len(part)
    if checksum != member.CRC:
        raise zipfile.BadZipFile(f"{member.filename}: wrong checksum")
