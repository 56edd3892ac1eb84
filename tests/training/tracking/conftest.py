"""Runs without answers for the receipt, which would cost two graphs a run; and the command beside the function of its name."""

import pytest

from tests.program import no_samples  # noqa: F401


@pytest.fixture
def petrun_command(petrun):
    """The fixture `petrun` of tests/conftest.py, under a name beside which the package can be imported."""
    return petrun
