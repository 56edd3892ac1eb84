"""MindSpore's Ascend front end without a card."""

import os
import shutil
import sys

import pytest

from petrun.config.load import cache_folder
from petrun.parallel.stub_cann import ensure_stub, environment


@pytest.fixture(scope="session")
def ascend():
    """(rank, world, level) -> environment of a process that is one rank of a cluster that is not there."""
    if (
        not (shutil.which("g++") and shutil.which("readelf"))
        or os.uname().machine != "x86_64"
        or sys.platform != "linux"
    ):
        pytest.skip("needs g++ and readelf on x86-64")
    # Where users have it: it is named by all that it depends on, so that what is there may be used.
    stub = ensure_stub(cache_folder())
    return lambda rank, world, level: environment(stub, rank, world, level)
