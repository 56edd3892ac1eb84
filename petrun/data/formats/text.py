"""Read plain text. A row is a line, or a block of one stream: the task decides."""

from __future__ import annotations

from petrun.data.formats.format import FileContent, Format
from petrun.data.formats.records import Records


def read_text(content: FileContent) -> Records:
    """Read every line that is not blank, and the full text as `Records.stream`."""
    kept = [(number, line) for number, line in enumerate(content.text.split("\n"), 1) if line.strip()]
    rows = [{"text": line} for _, line in kept]
    return Records(content.source.path, ("text",), rows, [number for number, _ in kept], stream=content.text)


TEXT = Format(
    name="text",
    suffixes=(".txt", ".text"),
    read=read_text,
    recognise=lambda content: not content.suffix_format,
)
