"""`petrun doctor`: a line for each finding, and an exit code that says whether one blocks."""

import json

import pytest

from petrun.cluster.doctor import software


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def quick(monkeypatch):
    """The process that imports MindSpore takes seconds; tests/cluster/doctor/test_software.py runs it."""
    found = {"mindspore": "2.10.0", "product": 4.0, "fused": True, "kernels": "C++ operators", "cann": ["9.1"]}
    monkeypatch.setattr(software, "probe", lambda: (found, ""))


def test_a_machine_that_works(petrun, quick, monkeypatch):
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    done = petrun("doctor")
    assert done.code == 0, done.out
    names = [line.split()[1] for line in done.out.splitlines() if line.split()[0] in ("ok", "note")]
    assert names[:5] == ["python", "packages", "mindspore", "operators", "CANN"] and {"disk", "threads", "g++"} < set(
        names
    )


def test_what_blocks_is_named_with_the_command_that_mends_it(petrun, monkeypatch):
    monkeypatch.setattr(software, "probe", lambda: ({}, "ImportError: numpy.core.multiarray failed to import"))
    done = petrun("doctor --json")
    assert done.code == 1 and "doctor: 1 of " in done.err and "mindspore: pip install --force-reinstall" in done.err
    found = {each["name"]: each for each in json.loads(done.out)}
    assert found["mindspore"]["verdict"] == "blocks" and "multiarray" in found["mindspore"]["text"]


def test_cards_that_are_asked_for_and_not_here_block(petrun, quick, monkeypatch):
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    done = petrun("doctor --device ascend")
    assert done.code == 1 and "CANN" in done.err and "cards" in done.err


def test_an_unknown_device_is_refused(petrun):
    done = petrun("doctor --device gpu")
    assert done.code == 2 and "--device gpu: must be cpu or ascend" in done.err
