"""Commands run without answers for the receipt, which would cost two graphs a run."""

from tests.program import no_samples  # noqa: F401
