"""Curves are drawn where their values are, and no spike of a long run is lost."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from petrun.training.report.chart import HEIGHT, MOST_POINTS, WIDTH, Axis, Series, chart, finite, thinned, ticks
from petrun.training.report.page import number


def curve_of(svg):
    ElementTree.fromstring(svg)
    return [tuple(map(float, pair.split(","))) for pair in re.search(r'points="([^"]+)"', svg)[1].split()]


def test_a_line_runs_from_the_upper_left_to_the_lower_right():
    """Linear values at equal steps lie on a straight line."""
    points = curve_of(chart("loss", [Series(name="a", points=[(1, 4.0), (2, 3.0), (3, 2.0)])], number))
    (x1, y1), (x2, y2), (x3, y3) = points
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2) and y2 - y1 == pytest.approx(y3 - y2, abs=0.2)
    assert x1 < x3 and y1 < y3 and all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in points)


def test_values_over_several_powers_are_drawn_on_a_logarithmic_axis():
    """Equal ratios are equal distances."""
    points = curve_of(chart("loss", [Series(name="a", points=[(1, 100.0), (2, 1.0), (3, 0.01)])], number))
    assert points[1][1] - points[0][1] == pytest.approx(points[2][1] - points[1][1], abs=0.2)


def test_memory_begins_at_zero():
    svg = chart("memory", [Series(name="a", points=[(1, 900.0), (2, 910.0)])], number, from_zero=True)
    assert ">0</text>" in svg


def test_spikes_stay_when_a_long_run_is_thinned():
    points = [(float(step), 1.0) for step in range(50_000)]
    points[31_234] = (31_234.0, 99.0)
    points[7] = (7.0, -5.0)
    found = thinned(points)
    assert len(found) <= MOST_POINTS and points[31_234] in found and points[7] in found
    assert list(found) == sorted(found)


def test_values_that_are_not_finite_are_left_out_and_nothing_draws_nothing():
    assert finite([(1, None), (2, float("nan")), (3, 1.0)]) == [(3, 1.0)]
    assert chart("loss", [Series(name="a", points=[])], number) == ""


@pytest.mark.parametrize(
    ("axis", "wanted"),
    [
        (Axis(low=0, high=10), [0, 2, 4, 6, 8, 10]),
        (Axis(low=0.9, high=1.1), [0.9, 0.95, 1.0, 1.05, 1.1]),
        (Axis(low=0.02, high=30, logarithmic=True), [0.1, 1.0, 10.0]),
        (Axis(low=5, high=5.1), [5.0, 5.02, 5.04, 5.06, 5.08, 5.1]),
    ],
)
def test_ticks_are_round_numbers(axis, wanted):
    assert ticks(axis) == pytest.approx(wanted)


def test_a_step_is_a_whole_number():
    assert ticks(Axis(low=1, high=3), whole=True) == [1, 2, 3]


def test_one_point_is_drawn_and_a_name_is_escaped():
    svg = chart("a", [Series(name="<&>", points=[(1, 1.0)])], number)
    ElementTree.fromstring(svg)
    assert "<circle" in svg and "&lt;&amp;&gt;" in svg
