"""Define the record that says everything about a file format; petrun/data/formats/table.py lists them all."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from petrun.data.formats.encoding import decode_text, find_encoding
from petrun.data.formats.records import Records
from petrun.data.formats.source import Source
from petrun.errors import DataError

_PROBE = 200_000
"""Characters by which a text format is recognised."""


@dataclass(frozen=True, kw_only=True)
class FileContent:
    """The content of one data file, as formats recognise and read it."""

    source: Source
    encoding: str | None = None
    """Encoding of the text, where the user names one."""
    suffix_format: str = ""
    """Name of the format that the file's suffix names; "" for none."""
    separator: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    """Canonical column -> column of the file; used to recognise a header row."""

    @cached_property
    def text(self) -> str:
        """The decoded text. Raises DataError."""
        return decode_text(self.source, self.encoding).text

    @cached_property
    def beginning(self) -> str:
        """The first 200,000 characters of the text from its first one that is not white space. Raises DataError."""
        known, _ = find_encoding(self.source, self.encoding)
        decoder = codecs.getincrementaldecoder(known)()
        try:
            found = decoder.decode(self.source.head, final=self.source.size == len(self.source.head))
        except UnicodeDecodeError:
            found = ""
        found = found.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").lstrip()
        # Where that does not tell, the full text does, or says what is wrong with the file.
        if "\0" in found or (len(found) <= _PROBE and len(self.source.head) < self.source.size) or not found:
            found = self.text.lstrip()
        return found[: _PROBE + 1]

    @cached_property
    def lines(self) -> list[str]:
        """The first lines that are not blank; in a long text the last of them may be incomplete."""
        return [line for line in self.beginning[:_PROBE].split("\n") if line.strip()]

    @property
    def whole_lines(self) -> list[str]:
        """The first lines that are not blank and complete."""
        return self.lines[:-1] if len(self.beginning) > _PROBE else self.lines

    @property
    def first_line(self) -> str:
        return self.lines[0].lstrip()

    @property
    def begins_as_json(self) -> bool:
        """Whether the text begins with the bracket of a JSON object or list."""
        return self.first_line[0] in "{["


@dataclass(frozen=True, kw_only=True)
class Format:
    """One file format."""

    name: str
    """The name in data.format, caches and manifests."""
    read: Callable[[FileContent], Records]
    """Reads the content. Raises DataError naming file and line."""
    recognise: Callable[[FileContent], bool]
    """Whether the content is of this format. Raises DataError for content that only looks like it."""
    suffixes: tuple[str, ...] = ()
    mismatch: Callable[[FileContent], DataError] | None = None
    """The error for a file with one of the suffixes whose content no format recognises; None: the suffix decides."""
    binary: bool = False
    """Whether the reader takes the bytes; else it takes the decoded text."""
    unit: str = "line"
    """The word before a row's number in messages."""
    sorted_keys: bool = False
    """Whether writers of the format sort the keys of objects."""
    requires: str = ""
    """Package that the reader imports when it is called; "" where petrun's requirements are enough."""
    extra: str = ""
    """petrun's extra that installs it."""


def wrong_first_bytes(name: str, magic: str) -> Callable[[FileContent], DataError]:
    """Return `Format.mismatch` of a binary format whose files begin with `magic`."""
    return lambda content: DataError(
        f"{content.source.path}: is not a {name} file (it does not begin with {magic})",
        hint="Was it cut short, or renamed?",
    )
