"""`petrun data mix`: several files in one, by weights, with tags."""

from __future__ import annotations

import tempfile
from array import array
from dataclasses import asdict

from petrun import console
from petrun.config.commands.data import MixSettings
from petrun.config.effect import require_effect
from petrun.curation.keys import draw_order
from petrun.curation.mixing import SYSTEM, TOKEN, Tagger, draw, parse_part
from petrun.curation.output import check_out, row_output
from petrun.curation.reading import STOP, RowFiles
from petrun.curation.writing import json_line
from petrun.data.rows.shares import share_out
from petrun.errors import ConfigError, did_you_mean


def run(given: MixSettings) -> None:
    """Draw rows of every file, put the tags on them, and write them in an order drawn by the seed. Raises ConfigError, DataError."""
    if given.tag_as not in (SYSTEM, TOKEN):
        raise ConfigError(f"--tag-as {given.tag_as}: no such place", hint=did_you_mean(given.tag_as, (SYSTEM, TOKEN)))
    parts = [parse_part(text) for text in given.files]
    if not any(part.tag for part in parts):
        require_effect(given, ("tag_as",), "without a tag: FILE:1:tag='From the web.'")
    each = [RowFiles([part.path], given.on_bad_row or STOP) for part in parts]
    together = RowFiles([part.path for part in parts], given.on_bad_row or STOP)
    out = check_out(given.out, together)
    # Every line is read before one is written, so that a bad line ends the command here.
    available = [sum(1 for _ in files) for files in each]
    wanted = share_out([part.weight for part in parts], available, given.rows)
    settings = {
        "parts": [asdict(part) for part in parts],
        "tag_as": given.tag_as,
        "rows": given.rows,
        "seed": given.seed,
    }
    with row_output(out, together, "mix", settings) as output, tempfile.TemporaryFile(dir=out.parent) as spool:
        places = array("q")
        for number, (part, files) in enumerate(zip(parts, each, strict=True)):
            tagged = Tagger(part.tag, given.tag_as)
            times = draw(available[number], wanted[number], given.seed, number).tolist()
            for row, copies in zip(files.rows(output.drop_unreadable), times, strict=True):
                if copies:
                    places.extend([spool.tell()] * copies)
                    spool.write(json_line(tagged(row)).encode())
        for chosen in draw_order(len(places), given.seed, "mix").tolist():
            spool.seek(places[chosen])
            output.keep_line(spool.readline())
        output.facts["rows"] = dict(zip((part.path for part in parts), wanted, strict=True))
    for part, count, size in zip(parts, wanted, available, strict=True):
        repeated = f", each {count / size:.2f} times" if count > size else ""
        console.tell(
            f"  {count:,} of {part.path}'s {size:,} rows{repeated}{f', tagged {part.tag!r}' if part.tag else ''}"
        )
