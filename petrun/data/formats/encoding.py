"""Decode the bytes of a text file: as UTF-8 where they are valid; else by a byte order mark; else by detection, if that is certain.

Detection: encodings that cannot decode the complete file are left out, and charset-normalizer ranks the others on the lines with
more than ASCII. It depends on the file's bytes alone. Where two encodings are about equally likely and give different text, the
file is refused with both readings: a wrong guess would train on garbage.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from charset_normalizer import from_bytes

from petrun.data.formats.source import Source, refuse_known_binary
from petrun.errors import ConfigError, DataError, did_you_mean

_MARKS = {
    b"\xef\xbb\xbf": "utf-8",
    # Before UTF-16, whose mark this one begins with.
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_LATIN = ("cp1252", "cp1250", "cp1254", "cp1257")
"""Encodings of one script: shared letters have the same codes, and statistics of short texts do not distinguish them."""
_TWO_BYTES = ("gb18030", "big5hkscs", "cp949", "cp932", "euc_jp")
_CANDIDATES = (*_TWO_BYTES, *_LATIN, "cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "cp874")
# As the WHATWG encoding standard maps them: files that say gb2312 or gbk hold characters of the larger sets.
_SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "cp936": "gb18030", "big5": "big5hkscs", "euc_kr": "cp949"}
_SAMPLE = 100_000
"""Bytes that are ranked."""
_NON_ASCII = re.compile(rb"[\x80-\xff]")
_AS_LIKELY = (0.03, 0.1)
"""Another encoding counts as equally likely within these differences of disorder and coherence (charset-normalizer's measures, 0 to 1)."""
_FEW = 60
"""Number of bytes beyond ASCII below which a file of two-byte characters may look like one of one-byte letters."""
_UTF8_LINE = 5
"""Number of characters beyond ASCII from which on a line of valid UTF-8 is not valid by chance."""
_NAME_IT = "--set data.encoding=NAME; of petrun data: --encoding NAME"


@dataclass(frozen=True, kw_only=True)
class Text:
    """A file's text, line ends made `\\n`, and how it was read."""

    text: str
    note: str = ""
    """A note for the user about the encoding; "" for UTF-8."""


def decode_text(source: Source, encoding: str | None = None) -> Text:
    """Decode the file's text. `encoding`: the user's choice, which takes precedence.

    Raises: DataError naming the line that cannot be decoded, with the readings among which the user has to choose; ConfigError for an
    unknown encoding.
    """
    refuse_known_binary(source)
    known, note = find_encoding(source, encoding)
    try:
        text = source.raw.decode(known)
    except UnicodeDecodeError as error:
        line = source.raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{source.path}, line {line}: byte 0x{source.raw[error.start]:02x} is not {known}: {error.reason}",
            hint="Is this the file's encoding, and is the file whole?",
        ) from error
    text = text.removeprefix("\ufeff")
    nul = text.find("\0")
    if nul >= 0:
        line = text.count("\n", 0, nul) + 1
        raise DataError(f"{source.path}, line {line}: holds a NUL byte, so this is no text file")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise DataError(f"{source.path}: the file is empty", hint="A data file needs at least one row.")
    return Text(text=text, note=note)


def find_encoding(source: Source, given: str | None = None) -> tuple[str, str]:
    """Return (Python's name of the encoding, a note for the user or ""). Raises as `decode_text`."""
    marked = next((name for mark, name in _MARKS.items() if source.head.startswith(mark)), None)
    if given is not None:
        return _given(source, given, marked)
    if marked is not None:
        return marked, "" if marked == "utf-8" else f"{source.path}: read as {marked}, by its byte order mark"
    _refuse_unmarked_wide(source)
    # A line feed is no part of a longer character, so valid blocks of lines are a valid file.
    if all(_decodes(block) for _, block in source.blocks()):
        return "utf-8", ""
    try:
        source.raw.decode("utf-8")
    except UnicodeDecodeError as error:
        first = source.raw.count(b"\n", 0, error.start) + 1
        _refuse_damaged_utf8(source, error, first)
        found = _detect(source, first, error)
        return found, f"{source.path}: is not UTF-8; read as {found} (another: {_NAME_IT})"
    return "utf-8", ""


def _given(source: Source, given: str, marked: str | None) -> tuple[str, str]:
    """Return the user's encoding. Raises DataError where the file's first bytes state another."""
    try:
        info = codecs.lookup(given)
    except LookupError:
        info = None
    if info is None or not getattr(info, "_is_text_encoding", True):
        known = ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "gbk", "gb2312", "big5", "shift_jis", *_CANDIDATES)
        raise ConfigError(f"data.encoding: unknown encoding '{given}'", hint=did_you_mean(given, known))
    name = info.name.replace("-", "_")
    name = _SUPERSETS.get(name, info.name)
    if marked is not None and not info.name.startswith(marked):
        raise DataError(
            f"{source.path}: begins with the byte order mark of {marked}, but data.encoding is {given}",
            hint="Leave data.encoding out: the mark tells the encoding.",
        )
    if marked is None and not info.name.startswith("utf-8") and _NON_ASCII.search(source.raw) and _is_utf8(source.raw):
        return name, f"{source.path}: read as {name}, as data.encoding says, although all its bytes are valid UTF-8"
    return name, ""


def _is_utf8(raw: bytes) -> bool:
    return _decodes(raw) and b"\0" not in raw


def _decodes(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _refuse_unmarked_wide(source: Source) -> None:
    """Refuse UTF-16 without a mark, in which every ASCII character, such as a line end, has a NUL byte on the same side."""
    beginning = source.head[:100_000]
    odd, even = beginning[1::2].count(0), beginning[::2].count(0)
    if odd == even or source.size % 2:
        return
    at_odd = odd > even
    low = beginning[0 if at_odd else 1 :: 2]
    wide = sum(byte > 0x7F for byte in low)
    # Half of the bytes of Latin text are NUL; the lower bytes of other letters have any value, unlike ASCII's.
    if (odd + even) * 2 < len(low) and wide * 5 < len(low):
        return
    name = "utf-16-le" if at_odd else "utf-16-be"
    try:
        text = source.raw.decode(name)
    except UnicodeDecodeError:
        return
    if "\0" not in text:
        shown = text.strip().partition("\n")[0][:40]
        raise DataError(
            f"{source.path}: looks like UTF-16 without a byte order mark",
            hint=f"As {name} it begins {shown!r}. Where that is right: --set data.encoding={name}",
        )


def _refuse_damaged_utf8(source: Source, error: UnicodeDecodeError, line: int) -> None:
    """Refuse a file that is UTF-8 but for some bytes, or in some lines only: no encoding could be detected."""
    raw = source.raw
    text = raw.decode("utf-8", "replace")
    wrong = text.count("\ufffd")
    right = sum(char > "\x7f" for char in text) - wrong
    whole = next((i for i, part in enumerate(raw.split(b"\n"), 1) if _certain_utf8(part)), None)
    if right > wrong or whole is not None:
        other = f", but line {whole} is" if whole is not None else ", but most of the file is"
        raise DataError(
            f"{source.path}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8{other}",
            hint="Mend that line, or write the file again in one encoding.",
        )


def _certain_utf8(line: bytes) -> bool:
    if len(_NON_ASCII.findall(line)) < 2 * _UTF8_LINE or not _is_utf8(line):
        return False
    return sum(char > "\x7f" for char in line.decode("utf-8")) >= _UTF8_LINE


def _detect(source: Source, line: int, error: UnicodeDecodeError) -> str:
    """Return the one likely encoding. Raises: DataError with the readings, where there are several, or none."""
    texts = {}
    for name in _CANDIDATES:
        try:
            texts[name] = source.raw.decode(name)
        except UnicodeDecodeError:
            continue
    ranked = _ranked(source.raw, list(texts)) if texts else []
    if ranked:
        best, disorder, likeness = ranked[0]
        more, less = _AS_LIKELY
        rivals = {name for name, d, c in ranked[1:] if d <= disorder + more and c >= likeness - less}
        if best in _LATIN:
            rivals |= set(_LATIN) & set(texts)
        if best not in _TWO_BYTES and len(_NON_ASCII.findall(source.raw)) < _FEW:
            rivals |= set(_TWO_BYTES) & set(texts)
        if all(texts[name] == texts[best] for name in rivals):
            return best
    likely = [name for name, _, _ in ranked]
    if likely and likely[0] in _LATIN:
        likely = [*(name for name in _LATIN if name in texts), *likely]
    order = [*likely, *texts]
    readings: dict[str, str] = {}
    for name in order:
        # Line ends are the same in all candidates, and no character of any candidate contains one.
        readings.setdefault(texts[name].replace("\r\n", "\n").split("\n")[line - 1].strip()[:40], name)
    shown = "; ".join(f"{name} {text!r}" for text, name in list(readings.items())[:5])
    raise DataError(
        f"{source.path}, line {line}: byte 0x{source.raw[error.start]:02x} is not UTF-8, and the encoding cannot be told for certain",
        hint=f"That line reads: {shown}. Name the right one: {_NAME_IT}"
        if readings
        else f"Is this a text file, and is it whole? Name its encoding: {_NAME_IT}",
    )


def _ranked(raw: bytes, names: list[str]) -> list[tuple[str, float, float]]:
    """Return (encoding, disorder, coherence), the likeliest first, from the lines that hold more than ASCII."""
    lines = [part for part in raw.split(b"\n") if _NON_ASCII.search(part)]
    step = 1 + sum(map(len, lines)) // _SAMPLE
    sample = b"\n".join(lines[::step])
    if len(sample) > 2 * _SAMPLE:
        # One long line. Bytes 0x20 to 0x2f are not part of a longer character in any candidate.
        cut = max(sample.rfind(mark, 0, 2 * _SAMPLE) for mark in (b" ", b",", b'"'))
        sample = sample[:cut] if cut > 0 else sample
    for threshold in (0.2, 0.6):
        found = from_bytes(
            sample,
            steps=1,
            chunk_size=len(sample),
            threshold=threshold,
            cp_isolation=names,
            preemptive_behaviour=False,
            enable_fallback=False,
        )
        if len(found):
            return [(match.encoding, match.chaos, match.coherence) for match in found]
    return []
