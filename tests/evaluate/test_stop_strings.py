"""Where a text stops."""

import pytest

from petrun.evaluate.stop_strings import StopStrings


@pytest.mark.parametrize(
    ("strings", "text", "start", "offset"),
    [
        (("END",), "one END two END", 0, 4),
        (("END",), "one END two END", 5, 12),
        (("two", "END"), "one END two", 0, 4),
        (("END",), "one EN", 0, None),
        ((), "anything", 0, None),
    ],
)
def test_the_first_one_counts(strings, text, start, offset):
    assert StopStrings(strings).find(text, start) == offset


@pytest.mark.parametrize(
    ("strings", "text", "begun"),
    [
        (("END",), "one EN", 2),
        (("END",), "one END", 0),
        (("END", "NNNN"), "one ENN", 2),
        (("END",), "", 0),
        ((), "one", 0),
    ],
)
def test_what_may_become_one_is_held_back(strings, text, begun):
    assert StopStrings(strings).begun(text) == begun


def test_longest():
    assert StopStrings(("a", "abc")).longest == 3
    assert StopStrings(()).longest == 0
