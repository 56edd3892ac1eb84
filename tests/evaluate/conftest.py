"""Runs of commands here answer no prompts for their receipts."""

from tests.program import no_samples  # noqa: F401
