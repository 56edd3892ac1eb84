"""MindSpore's Ascend front end without a card."""

import importlib.util
import shutil

import pytest


@pytest.fixture(scope="session")
def ascend(shared, tmp_path_factory):
    """(rank, world, level) -> environment of a process that is one rank of a cluster that is not there."""
    if not (shutil.which("g++") and shutil.which("readelf") and (shared / "ascend_rehearsal").is_dir()):
        pytest.skip("needs g++, binutils and the stub's maker")
    spec = importlib.util.spec_from_file_location("simrig", shared / "ascend_rehearsal" / "simrig.py")
    simrig = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(simrig)
    # MindSpore looks for CANN's own name in this path.
    stub = simrig.ensure_stub(str(tmp_path_factory.mktemp("ascend") / "stub_cann"))

    def environment(rank, world, level):
        return simrig.env(stub, rank=rank, world=world, level=level)

    return environment
