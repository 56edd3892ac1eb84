"""Fixtures for the tests of model families."""

import mindspore as ms
import pytest

from tests.program import no_samples  # noqa: F401

MODES = {"graph": ms.GRAPH_MODE, "pynative": ms.PYNATIVE_MODE}


@pytest.fixture(params=MODES)
def mode(request):
    """Both execution modes."""
    ms.set_context(mode=MODES[request.param])
    yield request.param
    ms.set_context(mode=ms.GRAPH_MODE)
