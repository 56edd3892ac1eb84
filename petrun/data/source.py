"""Bytes of a data file -> text, with an error that names the file and the line wherever that cannot be done."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from petrun.errors import DataError

_MAGIC = {
    b"\x1f\x8b": ("a gzip archive", "Unpack it first: gunzip {name}"),
    b"BZh": ("a bzip2 archive", "Unpack it first: bunzip2 {name}"),
    b"\xfd7zXZ": ("an xz archive", "Unpack it first: unxz {name}"),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", "Unpack it first: unzstd {name}"),
    b"%PDF": ("a PDF document", "Extract its text first."),
    b"ARROW1": ("an Arrow file", "Save it as parquet: datasets.Dataset.to_parquet(...)."),
    b"SQLite format 3": ("an SQLite database", "Export the table as CSV or JSONL."),
    b"\x93NUMPY": ("a single .npy array", "Store named arrays with numpy.savez(file, x=..., label=...)."),
}
_BOMS = {b"\xff\xfe": "UTF-16LE", b"\xfe\xff": "UTF-16BE"}


@dataclass(frozen=True)
class Source:
    """One data file, read whole."""

    path: Path
    raw: bytes = field(repr=False)
    digest: str
    """SHA-256 of the bytes."""


def read_source(path: str | Path) -> Source:
    """Read a data file.

    Raises: DataError when it is missing, a folder, unreadable or empty.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        files = sorted(p.name for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        listed = ", ".join(files[:10]) + (", ..." if len(files) > 10 else "")
        raise DataError(
            f"{path}: is a folder, expected a data file", hint=f"It holds: {listed}" if files else "It holds no files."
        )
    if not path.exists():
        near = _neighbours(path)
        raise DataError(f"{path}: no such data file", hint=f"Beside it: {near}" if near else "")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not raw.strip():
        raise DataError(f"{path}: the file is empty", hint="A data file needs at least one row.")
    return Source(path, raw, hashlib.sha256(raw).hexdigest())


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir() or not os.access(path.parent, os.R_OK):
        return ""
    return ", ".join(sorted(p.name for p in path.parent.iterdir() if not p.name.startswith("."))[:10])


def refuse_known_binary(source: Source) -> None:
    """Raises: DataError for archives and documents that are not data rows."""
    for magic, (what, hint) in _MAGIC.items():
        if source.raw.startswith(magic):
            raise DataError(f"{source.path}: is {what}, not rows of data", hint=hint.format(name=source.path.name))


def decode_text(source: Source) -> str:
    """UTF-8 text with the byte order mark taken off and line ends made `\\n`.

    Raises: DataError with the line of the first byte that is not UTF-8.
    """
    raw, name = source.raw, source.path
    refuse_known_binary(source)
    for bom, encoding in _BOMS.items():
        if raw.startswith(bom):
            raise _not_utf8(name, 1, f"starts with the byte order mark of {encoding}", encoding)
    if raw.startswith(b"\xef\xbb\xbf"):
        raw = raw[3:]
    nul = raw.find(b"\0")
    if nul >= 0:
        line = raw.count(b"\n", 0, nul) + 1
        # In UTF-16 about every other byte of Latin text is NUL; anything else with a NUL is no text at all.
        if raw[:1000].count(b"\0") * 4 > len(raw[:1000]):
            raise _not_utf8(
                name, line, "looks like UTF-16 without a byte order mark", "UTF-16LE" if nul % 2 else "UTF-16BE"
            )
        raise DataError(f"{name}, line {line}: holds a NUL byte, so this is no text file")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _not_utf8(name, line, f"byte 0x{raw[error.start]:02x} is not UTF-8", "ISO-8859-1") from error
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise DataError(f"{name}: the file is empty", hint="A data file needs at least one row.")
    return text


def _not_utf8(path: Path, line: int, what: str, encoding: str) -> DataError:
    example = " (or whatever encoding it has)" if encoding == "ISO-8859-1" else ""
    return DataError(
        f"{path}, line {line}: {what}; data files are UTF-8",
        hint=f"Convert it: iconv -f {encoding} -t UTF-8 {path.name} > utf8-{path.name}{example}",
    )
