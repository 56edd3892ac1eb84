"""`petrun data convert`: rows in another form of instructions, another file format, or both."""

from __future__ import annotations

from petrun.config.commands.data import ConvertRowsSettings
from petrun.curation.forms import FormConverter, forms
from petrun.curation.output import UNREADABLE, check_out, row_output
from petrun.curation.reading import SKIP, STOP, RowFiles
from petrun.errors import ConfigError, DataError, did_you_mean


def run(given: ConvertRowsSettings) -> None:
    """Convert the rows one by one. Raises DataError for a row that the form cannot hold, unless such rows are left out."""
    if given.to is not None and given.to not in forms():
        raise ConfigError(f"--to {given.to}: no such form", hint=did_you_mean(given.to, forms()))
    files = RowFiles(given.files, given.on_bad_row or STOP)
    out = check_out(given.out, files)
    converter = FormConverter(given.to) if given.to is not None else None
    with row_output(out, files, "convert", {"to": given.to}) as output:
        for row in files.rows(output.drop_unreadable):
            try:
                output.keep(converter(row) if converter is not None else row.cells)
            except DataError as error:
                if files.on_bad_row != SKIP:
                    raise
                output.drop(row, UNREADABLE if converter is None else f"has no form as {given.to}", error.message)
