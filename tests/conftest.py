"""Fixtures for every package."""

import gc
import os
import shutil
import sys
from pathlib import Path

import mindspore as ms
import pytest

pytest.register_assert_rewrite("tests.program")

from petrun.config.load import cache_folder  # noqa: E402
from petrun.rehearsal.stub_cann import ensure_stub, environment  # noqa: E402
from tests.program import outside, petrun, place, refused, workplace  # noqa: E402, F401

ROOT = Path(__file__).resolve().parent.parent
USERS_CACHE = cache_folder()


def pytest_collection_finish():
    """MindSpore collects garbage before it compiles a graph, and would look through all that the tests imported each time: 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(outside):  # noqa: F811
    """Graphs, rows and what else commands keep for the next one go into a folder of the session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", outside["XDG_CACHE_HOME"])
        yield


@pytest.fixture(scope="session")
def shared():
    """The folder `shared` beside the repository: reference numbers and real data that a clone does not have."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("no folder `shared` beside the repository")
    return path


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
    stub = ensure_stub(USERS_CACHE)
    return lambda rank, world, level: environment(stub, rank, world, level)


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    """Both execution modes."""
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture
def pynative():
    """Graphs take a second each to compile; what the host does is the same in both modes."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)
