"""Define the record that says everything about a file format; petrun/data/formats/table.py lists them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from petrun.data.formats.records import Records
from petrun.data.formats.source import Source
from petrun.errors import DataError

_PROBE = 200_000
"""Characters by which a text format is recognised."""


@dataclass(frozen=True, kw_only=True)
class FileContent:
    """The content of one data file, as formats recognise and read it."""

    source: Source
    text: str = field(default="", repr=False)
    """The decoded text; "" where the format is binary."""
    suffix_format: str = ""
    """Name of the format that the file's suffix names; "" for none."""
    separator: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    """Canonical column -> column of the file; used to recognise a header row."""

    @cached_property
    def lines(self) -> list[str]:
        """The first lines that are not blank; in a long text the last of them may be incomplete."""
        return [line for line in self.text.lstrip()[:_PROBE].split("\n") if line.strip()]

    @property
    def whole_lines(self) -> list[str]:
        """The first lines that are not blank and complete."""
        return self.lines[:-1] if len(self.text) > _PROBE else self.lines

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
