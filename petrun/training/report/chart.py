"""Draw curves over the steps of runs as SVG, in the colours of the page around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 12, 10, 26
MOST_POINTS = 400
"""Points of a curve. Of more steps each group keeps its least and its greatest value, so that no spike is lost."""
COLOURS = 6
"""Series that the page has colours for; further ones have the same again, dashed."""

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve: points by step, values that are not finite left out."""

    name: str
    points: Sequence[Point]
    index: int = 0
    """Number of its run, for the colour."""
    dots: bool = False
    """Each point is drawn by itself too: evaluations."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Values between two ends, and where each is drawn."""

    low: float
    high: float
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Return 0 for the low end, 1 for the high one."""
        low, high, value = (math.log(each) if self.logarithmic else each for each in (self.low, self.high, value))
        return (value - low) / (high - low)


def chart(title: str, series: Sequence[Series], write: Callable[[float], str], *, from_zero: bool = False) -> str:
    """Return an SVG of the curves, with axes and a grid; "" where no curve has a point. `write`: how a value is written.

    The axis of values is logarithmic where they are positive and span more than a factor of 50, unless it is to begin at zero.
    """
    drawn = [one for one in series if one.points]
    if not drawn:
        return ""
    values = [value for one in drawn for _, value in one.points]
    steps = [step for one in drawn for step, _ in one.points]
    x = Axis(low=min(steps), high=max(steps) if max(steps) > min(steps) else min(steps) + 1)
    y = _value_axis(0.0 if from_zero else min(values), max(values))
    body = [*_grid(x, y, write), *(_curve(one, x, y, write) for one in drawn)]
    label = escape(f"{title}: {', '.join(one.name for one in drawn)}", quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(body)}</svg>'


def _value_axis(low: float, high: float) -> Axis:
    if low > 0 and high / low > 50:
        return Axis(low=low, high=high, logarithmic=True)
    if low == high:
        margin = abs(low) * 0.1 or 1.0
        return Axis(low=low - margin, high=high + margin)
    margin = (high - low) * 0.05
    # A curve of positive values does not go below zero.
    return Axis(low=max(0.0, low - margin) if low >= 0 else low - margin, high=high + margin)


def _place(x: Axis, y: Axis, point: Point) -> Point:
    return (
        _LEFT + x.share(point[0]) * (WIDTH - _LEFT - _RIGHT),
        HEIGHT - _BOTTOM - y.share(point[1]) * (HEIGHT - _TOP - _BOTTOM),
    )


def _grid(x: Axis, y: Axis, write: Callable[[float], str]) -> list[str]:
    lines = []
    for value in ticks(y):
        _, at = _place(x, y, (x.low, value))
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        lines.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{escape(write(value))}</text>'
        )
    for step in ticks(x, whole=True):
        at, _ = _place(x, y, (step, y.low))
        lines.append(f'<text class="tick" x="{at:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{step:,.0f}</text>')
    return lines


def ticks(axis: Axis, whole: bool = False) -> list[float]:
    """Return about five round numbers within the axis. `whole`: whole numbers alone."""
    if axis.logarithmic:
        powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
        every = [10.0**power for power in powers if axis.low <= 10.0**power <= axis.high]
        return every[:: max(1, len(every) // 5)] if len(every) > 1 else [axis.low, axis.high]
    rough = (axis.high - axis.low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    step = max(1.0, step) if whole else step
    first = math.ceil(axis.low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(axis.high / step + 1e-9) + 1)]


def _curve(one: Series, x: Axis, y: Axis, write: Callable[[float], str]) -> str:
    style = f"s{one.index % COLOURS}" + (" dashed" if one.index >= COLOURS else "")
    points = thinned(one.points)
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (_place(x, y, point) for point in points))
    parts = [f'<polyline class="line {style}" points="{path}"/>'] if len(points) > 1 else []
    if one.dots or len(points) == 1:
        for point in points:
            a, b = _place(x, y, point)
            said = escape(f"{one.name}, step {point[0]:,.0f}: {write(point[1])}")
            parts.append(f'<circle class="dot {style}" cx="{a:.1f}" cy="{b:.1f}" r="3"><title>{said}</title></circle>')
    return "".join(parts)


def thinned(points: Sequence[Point]) -> Sequence[Point]:
    """Return at most MOST_POINTS of the points: of each group of neighbours the least and the greatest, in their order."""
    if len(points) <= MOST_POINTS:
        return points
    groups = MOST_POINTS // 2
    kept: list[Point] = []
    for group in range(groups):
        some = points[len(points) * group // groups : len(points) * (group + 1) // groups]
        ends = {min(some, key=lambda point: point[1]), max(some, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def finite(points: Sequence[tuple[float, float | None]]) -> list[Point]:
    """Return the points that have a finite value."""
    return [(step, value) for step, value in points if value is not None and math.isfinite(value)]
