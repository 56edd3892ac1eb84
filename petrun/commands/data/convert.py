"""`petrun data convert`: rows in another form of instructions, another file format, or both."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from petrun.config.commands.data import ConvertRowsSettings
from petrun.curation.forms import FormConverter, forms, swapped
from petrun.curation.output import UNREADABLE, check_out, row_output
from petrun.curation.parts import PartReader
from petrun.curation.reading import SKIP, STOP, DataRow, RowFiles
from petrun.errors import ConfigError, DataError, did_you_mean
from petrun.typing import JsonObject


def run(given: ConvertRowsSettings) -> None:
    """Convert the rows one by one. Raises DataError for a row that the form cannot hold, unless such rows are left out."""
    if given.to is not None and given.to not in forms():
        raise ConfigError(f"--to {given.to}: no such form", hint=did_you_mean(given.to, forms()))
    if given.swap and given.to is not None:
        raise ConfigError("--swap writes prompt and completion, and --to another form: give one of them")
    if given.source is not None and given.to is None and not given.swap:
        raise ConfigError("--source and --target are for --to and --swap: without them the columns stay")
    parts = PartReader(source=given.source, target=given.target)
    files = RowFiles(given.files, given.on_bad_row or STOP, given.encoding, parts.columns)
    out = check_out(given.out, files)
    converter: Callable[[DataRow], JsonObject] | None = FormConverter(given.to, parts) if given.to is not None else None
    if given.swap:
        converter = partial(swapped, parts=parts)
    with row_output(out, files, "convert", {"to": given.to, "swap": given.swap}) as output:
        for row in files.rows(output.drop_unreadable):
            try:
                output.keep(converter(row) if converter is not None else row.cells)
            except DataError as error:
                if files.on_bad_row != SKIP:
                    raise
                output.drop(
                    row,
                    UNREADABLE if converter is None else f"has no form as {given.to or 'a swapped row'}",
                    error.message,
                )
