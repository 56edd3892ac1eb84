"""`petrun data head`: the first rows, on the terminal or in a file."""

from __future__ import annotations

import json
from itertools import islice

from petrun import console
from petrun.config.commands.data import HeadSettings
from petrun.curation.output import check_out, row_output
from petrun.curation.reading import STOP, RowFiles


def run(given: HeadSettings) -> None:
    """Print the first rows as JSON, or write them. Raises DataError, OutputError."""
    files = RowFiles(given.files, given.on_bad_row or STOP, given.encoding)
    if given.out is None:
        for row in islice(files.rows(lambda bad: console.print_to_stderr(f"{bad.where}: {bad.problem}")), given.count):
            console.print(json.dumps(row.cells, indent=2, ensure_ascii=False, default=str))
        return
    out = check_out(given.out, files)
    with row_output(out, files, "head", {"rows": given.count}) as output:
        for row in islice(files.rows(output.drop_unreadable), given.count):
            output.keep(row.cells)
