"""Fixtures for the tests of model families."""

from tests.program import no_samples  # noqa: F401
