"""`petrun data stats`: what files of rows hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from petrun import console
from petrun.config.commands.data import StatsSettings
from petrun.curation.histogram import statistics_page, terminal_histogram
from petrun.curation.languages import LanguageTeller, has_language_model
from petrun.curation.lengths import token_counter
from petrun.curation.parts import PartReader
from petrun.curation.reading import SKIP, RowFiles
from petrun.curation.statistics import RowStatistics, row_statistics
from petrun.tensors.output import check_file, write_text
from petrun.typing import JsonObject

_SHOWN = 12


def run(given: StatsSettings) -> None:
    """Count the rows and print the figures. Raises DataError, OutputError."""
    parts = PartReader(source=given.source, target=given.target)
    files = RowFiles(given.files, SKIP, given.encoding, parts.columns)
    check_file("--html", given.html, files.inputs)
    language = LanguageTeller() if has_language_model() else None
    tokens = token_counter(given.base) if given.base is not None else None
    found = row_statistics(files, parts, tokens, language)
    facts = found.facts()
    if given.as_json:
        console.print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        _print(facts, found)
        if language is None:
            console.print("\nlanguages are told by the package py3langid: pip install 'petrun[data]'")
    if given.html is not None:
        title = ", ".join(path.name for path in files.inputs)
        write_text(Path(given.html).expanduser(), statistics_page(title, facts, found.lengths))
        console.print_to_stderr(f"wrote {given.html}")


def _print(facts: JsonObject, found: RowStatistics) -> None:
    rows = facts["rows"]
    console.print(f"{rows:,} rows")
    for name in ("kinds", "columns", "languages", "labels"):
        values = list(facts[name].items())
        if values:
            shown = ", ".join(f"{key} {count:,}" for key, count in values[:_SHOWN])
            more = f", and {len(values) - _SHOWN:,} more" if len(values) > _SHOWN else ""
            console.print(f"{name}: {shown}{more}")
    for name in ("rows equal to an earlier one", "questions equal to an earlier one"):
        console.print(f"{name}: {facts[name]:,}")
    lengths = [
        (name, *(f"{figures[key]:,}" for key in ("mean", "p5", "p50", "p95", "p100", "sum")))
        for name, figures in facts["lengths"].items()
        if figures["p100"]
    ]
    if lengths:
        console.print("\n" + console.columns([("length", "mean", "5 %", "median", "95 %", "longest", "sum"), *lengths]))
        name = "row tokens" if "row tokens" in found.lengths else "answer characters"
        if facts["lengths"][name]["p100"]:
            console.print(f"\n{name}, rows of each length")
            console.print(terminal_histogram(np.frombuffer(found.lengths[name], np.uint32)))
    for what, odd in facts["odd"].items():
        console.print(f"\n{odd['rows']:,} rows: {what}")
        console.print("\n".join(f"  {where}" for where in odd["first"]))
