"""Write the figures of base and delta side by side, as plain text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from petrun.evaluate.bootstrap import Comparison
from petrun.evaluate.metrics import METRICS


def spell(value: float | None) -> str:
    """Write a figure with four decimals, or four significant digits where that would hide the number; '-' where there is none."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.3e}"
    return f"{value:.4f}"


def _change(name: str, base: float | None, delta: float | None) -> str:
    """Write the signed difference and what it means: '+0.1250 better'."""
    if base is None or delta is None or not (math.isfinite(base) and math.isfinite(delta)):
        return "-"
    difference = delta - base
    if difference == 0:
        return "same"
    text = ("+" if difference > 0 else "") + spell(difference)
    metric = METRICS.get(name)
    if metric is None:
        return text
    return f"{text} {'better' if (difference > 0) == metric.higher_is_better else 'worse'}"


def side_by_side(
    base: Mapping[str, float] | None, delta: Mapping[str, float] | None, names: Sequence[str] | None = None
) -> str:
    """Write a table of metric / base / delta / change, one line for each metric, columns aligned, no trailing white space.

    Either side may be absent (None): a delta with trained heads has no base figure; its column is then left
    out, and so is the change. `names` picks metrics and their order; default: those of both sides in their order.
    """
    sides = {"base": base, "delta": delta}
    shown = {title: values for title, values in sides.items() if values is not None}
    if names is None:
        names = list(dict.fromkeys(name for values in shown.values() for name in values))
    rows: list[tuple[str, ...]] = [("metric", *shown, *(("change",) if len(shown) == 2 else ()))]
    for name in names:
        figures = [values.get(name) for values in shown.values()]
        change = (_change(name, figures[0], figures[1]),) if len(shown) == 2 else ()
        rows.append((name, *(spell(f) for f in figures), *change))
    return _aligned(rows, len(shown))


def table(columns: Mapping[str, Mapping[str, float]]) -> str:
    """Write a table of metrics with one column for each of several deltas, aligned."""
    names = dict.fromkeys(name for values in columns.values() for name in values)
    rows: list[tuple[str, ...]] = [("metric", *columns)]
    rows += [(name, *(spell(values.get(name)) for values in columns.values())) for name in names]
    return _aligned(rows, len(columns))


def signature_lines(signatures: Mapping[str, str]) -> str:
    """Write a line for each signature, with the metrics that share it; '' where there is none."""
    shared: dict[str, list[str]] = {}
    for metric, signature in signatures.items():
        shared.setdefault(signature, []).append(metric)
    return "\n".join(f"{', '.join(names)}: {signature}" for signature, names in shared.items())


def comparison_lines(first: str, second: str, found: Sequence[Comparison]) -> str:
    """Write the comparison of the second with the first: metric / difference / its 95 % interval / share of draws that the second wins."""
    rows: list[tuple[str, ...]] = [("metric", "difference", "95 % from", "to", f"{second} better in")]
    for c in found:
        signed = [("+" if value > 0 else "") + spell(value) for value in (c.difference, c.low, c.high)]
        rows.append((c.metric, *signed, f"{100 * c.wins:.1f} % of {c.draws}"))
    return f"\n{second} against {first}, on the same rows drawn again and again\n{_aligned(rows, 4)}"


def _aligned(rows: Sequence[tuple[str, ...]], figures: int) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths, figures) for row in rows)


def _line(row: tuple[str, ...], widths: Sequence[int], figures: int) -> str:
    """Align names and the change to the left, figures to the right so that their decimal points are in one column."""
    parts = [
        cell.rjust(width) if 1 <= i <= figures else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(parts).rstrip()
