"""Why ranks failed, as a table of numbers: what is read is what was written, and what nobody wrote is nothing."""

import socket

import numpy as np
import pytest

from petrun.cluster.failures import LETTERS, Failure, error_of_others, failure_table, failures_in
from petrun.errors import ConfigError, OutputError, SetupError


def test_rows_of_those_that_failed_come_through_a_sum():
    here = socket.gethostname()[:64]
    errors = {1: OutputError("run/ä: the disk is full\nmore"), 3: ConfigError(""), 4: OutputError("€" * LETTERS)}
    table = sum(failure_table(errors.get(rank), rank, 6) for rank in range(6))
    assert table.dtype == np.float32 and table.shape == (6, LETTERS)
    disk, empty, long = failures_in(table)
    assert (disk, empty) == (
        Failure(rank=1, exit_code=1, host=here, reason="run/ä: the disk is full"),
        Failure(rank=3, exit_code=2, host=here, reason=""),
    )
    assert long.rank == 4 and long.reason.startswith("€" * 100) and long.reason.endswith("€...")
    (odd,) = failures_in(failure_table(OutputError("run\udcff\rnext"), 0, 1))
    assert odd.reason == "run\\udcff"
    error = error_of_others([disk, empty, long])
    assert isinstance(error, SetupError) and error.message == "rank 1 failed: run/ä: the disk is full"
    assert error.hint == "The log of rank 1 says the rest. Failed as well: ranks 3, 4."
    assert (
        error_of_others([Failure(rank=9, exit_code=2, host="other", reason="no")]).message
        == "rank 9 on other failed: no"
    )
    assert (
        error_of_others([Failure(rank=9, exit_code=2, host="other", reason="no")]).exit_code == 2
        and SetupError.exit_code == 1
    )
    many = error_of_others([Failure(rank=rank, exit_code=1, host=here, reason="no") for rank in range(12)])
    assert many.hint.endswith("ranks 1, 2, 3, 4, 5, 6, 7, 8 and 3 more.")


@pytest.mark.parametrize("value", [0.0, 1.0, 49.0, 1e30, -7.5, np.nan, np.inf, -np.inf])
def test_what_nobody_wrote_is_nothing(value):
    assert failures_in(np.full((3, LETTERS), value, np.float32)) == []
    assert error_of_others([]).message == "another rank failed"
