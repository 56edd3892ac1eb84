"""Read lines `input<separator>reference`, with the separator data.separator."""

from __future__ import annotations

from petrun.data.formats.format import FileContent, Format
from petrun.data.formats.records import Records
from petrun.errors import ConfigError, DataError


def recognise_separated(content: FileContent) -> bool:
    """Return whether a separator is given, and the first line holds it or is not JSON."""
    separator = content.separator
    return separator is not None and (separator in content.first_line or not content.begins_as_json)


def read_separated(content: FileContent) -> Records:
    """Read the rows. Raises DataError for a line without the separator; ConfigError where none is given."""
    path, separator = content.source.path, content.separator
    if separator is None:
        raise ConfigError(
            "data.format is 'separated', but there is no data.separator", hint="--set data.separator='||'"
        )
    rows, numbers = [], []
    for number, line in enumerate(content.text.split("\n"), 1):
        if not line.strip():
            continue
        before, found, after = line.partition(separator)
        if not found:
            raise DataError(
                f"{path}, line {number}: no separator {separator!r} in {line[:60]!r}",
                hint="Every line is `input<separator>reference`.",
            )
        rows.append({"input": before, "reference": after})
        numbers.append(number)
    return Records(path, ("input", "reference"), rows, numbers)


SEPARATED = Format(name="separated", read=read_separated, recognise=recognise_separated)
