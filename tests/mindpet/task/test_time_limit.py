"""--timeout."""

import pytest

from petrun.mindpet.task.time_limit import seconds_of
from petrun.mindpet.utils.exceptions import MindPetError


@pytest.mark.parametrize(
    ("text", "seconds"), [("5h", 18000), ("1d2h", 93600), (" 1D 2H ", 93600), ("2d", 172800), ("1h30m", 5400)]
)
def test_a_limit_is_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0h", "24h", "60m", "2h1d", "5", "5s", "-1h"])
def test_what_is_no_limit_is_refused(text):
    with pytest.raises(MindPetError, match=r"--timeout .*such as 1d2h or 30m"):
        seconds_of(text)
