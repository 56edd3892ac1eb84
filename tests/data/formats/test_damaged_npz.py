"""Archives of arrays with bytes that are not theirs: whatever zipfile, a decompressor or numpy makes of them, it is told as damage."""

import io
import lzma
import random
import tokenize
import zipfile
import zlib

import numpy as np
import pytest

from petrun.data.formats.format import FileContent
from petrun.data.formats.npz import DAMAGED_NPZ, read_npz
from petrun.data.formats.source import Source
from petrun.errors import DataError

HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }"


def npy(header=HEADER):
    """An array (3, 2) with this header."""
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(24)


def archive(header=HEADER, method=zipfile.ZIP_STORED):
    """Its checksum is right: what is wrong with a header only numpy finds out."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as made:
        made.writestr("x.npy", npy(header))
    return out.getvalue()


def changed(raw, place, *values):
    return raw[:place] + bytes(values) + raw[place + len(values) :]


def central(place, *values, of=archive()):  # noqa: B008
    """Changed in the entry of the archive's directory, both places that say it."""
    return changed(changed(of, of.index(b"PK\x01\x02") + place, *values), place - 2, *values)


DATA = 30 + len("x.npy")
"""Where the content of the first member begins."""
LONG = (80, 195, 0, 0)
"""50000, as the directory writes a size."""
CASES = {
    "cut": (archive()[:-30], zipfile.BadZipFile),
    "a letter of the header": (changed(archive(), DATA + 12, 7), zipfile.BadZipFile),
    "no deflated data": (changed(archive(method=zipfile.ZIP_DEFLATED), DATA, 255, 255), zlib.error),
    "no LZMA filter": (changed(archive(method=zipfile.ZIP_LZMA), DATA + 4, 255), lzma.LZMAError),
    "said to be bzip2": (central(10, zipfile.ZIP_BZIP2), OSError),
    "said to be longer": (central(20, *LONG, *LONG, of=archive(HEADER.replace("3", "3000"))), EOFError),
    "encrypted": (central(8, 1), RuntimeError),
    "unknown compression": (central(10, 99), NotImplementedError),
    "no expression": (archive(HEADER.replace("<f4", "(2,")), SyntaxError),
    "unclosed": (archive(HEADER[:-1]), tokenize.TokenError),
    "a key that is no key": (archive("{[]: 2}"), TypeError),
    "half a type": (archive(HEADER.replace("'<f4'", "('<f4',)")), IndexError),
    "more than a count": (archive(HEADER.replace("3", "9" * 30)), OverflowError),
    "more than memory": (archive(HEADER.replace("3", "9" * 14)), MemoryError),
}


def damage(raw, path):
    """What told of the damage; None where the bytes can be read."""
    try:
        read_npz(FileContent(source=Source(path, raw, "")))
    except DataError as error:
        assert error.message.startswith(f"{path}: ")
        return error.__cause__
    return None


@pytest.mark.parametrize("case", CASES)
def test_damage(tmp_path, case):
    raw, kind = CASES[case]
    assert damage(archive(), tmp_path / "a.npz") is None
    found = damage(raw, tmp_path / "a.npz")
    assert isinstance(found, kind), repr(found)


def test_nothing_else_comes_through_and_nothing_is_expected_in_vain(tmp_path):
    assert {kind for kind in DAMAGED_NPZ if not any(issubclass(case, kind) for _, case in CASES.values())} == set()
    drawn, seen = random.Random(0), 0
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        whole = archive(method=method)
        for _ in range(3000):
            raw = whole
            for _ in range(drawn.choice((1, 1, 3))):
                raw = changed(raw, drawn.randrange(len(raw)), drawn.randrange(256))
            seen += damage(raw, tmp_path / "a.npz") is not None
    letters = "()[]{}'\"\\,:L0123456789 \n#OVUSMm<>|-.*"
    with np.errstate(all="ignore"):
        for _ in range(2000):
            header = list(HEADER)
            for _ in range(drawn.randrange(1, 5)):
                header[drawn.randrange(len(header))] = drawn.choice(letters)
            seen += damage(archive("".join(header)), tmp_path / "a.npz") is not None
    assert seen > 2000
