"""Draw how lengths are distributed: bars for a terminal, or a page of HTML without scripts."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np

from petrun.tensors import Array
from petrun.typing import JsonObject

_BINS = 12
_WIDTH = 40
_BLOCKS = " ▏▎▍▌▋▊▉█"


def bins_of(values: Array) -> list[tuple[int, int, int]]:
    """Return (first length, last length, rows) of at most 12 bins, whole numbers wide and equal; the last reaches to the longest row.

    They end at the 99th percentile, so that a few long rows do not press all others into one bin.
    """
    if not len(values):
        return []
    low, high = int(values.min()), int(np.percentile(values, 99, method="inverted_cdf"))
    width = max(1, -(-(high - low + 1) // _BINS))
    starts = list(range(low, high + 1, width))
    edges = [*starts, int(values.max()) + 1]
    counts, _ = np.histogram(values, bins=np.array(edges, np.float64))
    return [(start, stop - 1, int(count)) for start, stop, count in zip(edges, edges[1:], counts, strict=False)]


def terminal_histogram(values: Array) -> str:
    """Return one line for each bin: its lengths, its rows, and a bar."""
    found = bins_of(values)
    most = max(count for _, _, count in found)
    names = [f"{low:,}" if low == high else f"{low:,} - {high:,}" for low, high, _ in found]
    wide, tall = max(map(len, names)), len(f"{most:,}")
    return "\n".join(
        f"  {name.rjust(wide)}  {count:>{tall},}  {_bar(count, most)}".rstrip()
        for name, (_, _, count) in zip(names, found, strict=True)
    )


def _bar(count: int, most: int) -> str:
    eighths = round(8 * _WIDTH * count / most)
    # A row in ten thousand still shows.
    return _BLOCKS[8] * (eighths // 8) + _BLOCKS[eighths % 8].strip() or ("▏" if count else "")


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "table{border-collapse:collapse}td,th{padding:.1em .8em .1em 0;text-align:left;vertical-align:top}"
    ".n{text-align:right;font-variant-numeric:tabular-nums}.b{background:#3b6ea5;height:.9em}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}.b{background:#7aa7d9}}"
)


def statistics_page(title: str, facts: JsonObject, lengths: Mapping[str, Sequence[int]]) -> str:
    """Return a page with all figures and one histogram for each length. Every text of the data is escaped."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
    ]
    for name, values in facts.items():
        if isinstance(values, dict):
            if values:
                parts.append(f"<h2>{html.escape(name)}</h2>{_table(values)}")
        else:
            parts.append(f"<p>{html.escape(name)}: {values:,}</p>")
    for name, numbers in lengths.items():
        parts.append(f"<h2>{html.escape(name)}, rows of each length</h2>{_bars(np.asarray(numbers))}")
    return "\n".join(parts) + "</html>\n"


def _table(values: JsonObject) -> str:
    rows = []
    for name, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_shown(inner)}" for key, inner in value.items())
        rows.append(f"<tr><td>{html.escape(str(name))}<td class=n>{html.escape(_shown(value))}")
    return f"<table>{''.join(rows)}</table>"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _bars(values: Array) -> str:
    found = bins_of(values)
    most = max((count for _, _, count in found), default=1)
    rows = [
        f"<tr><td class=n>{low:,} - {high:,}<td class=n>{count:,}<td><div class=b style=width:{30 * count / most:.2f}em></div>"
        for low, high, count in found
    ]
    return f"<table>{''.join(rows)}</table>"
