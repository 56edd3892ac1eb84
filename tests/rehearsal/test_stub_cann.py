"""The stub of CANN: it lets MindSpore's Ascend plugin load, it is built once, and what it needs is asked for by name."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from petrun.errors import OutputError, SetupError
from petrun.rehearsal import stub_cann
from petrun.rehearsal.stub_cann import ensure_stub, environment

PROBE = """
import mindspore as ms
from mindspore.communication import get_group_size, get_rank, init
ms.set_device("Ascend")
init()
print("RANK", get_rank(), "OF", get_group_size(), ms.get_context("device_target"))
"""


def test_a_rank_of_a_cluster_starts_on_a_stub_built_by_two_at_once(ascend, tmp_path):
    """`ascend` is asked for only to skip where nothing can be built: this stub is a new one."""
    found = []
    threads = [threading.Thread(target=lambda: found.append(ensure_stub(tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 2
    assert sorted(p.name for p in (tmp_path / "ascend").iterdir()) == sorted([found[0].name, "lock"])
    env = environment(
        found[0], 37, 64, 0, {**environment(found[0], 0, 1, 0), "MS_ROLE": "MS_WORKER", "RANK_TABLE_FILE": "/no"}
    )
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert "RANK 37 OF 64 Ascend" in done.stdout, done.stderr[-3000:]


def test_the_environment_puts_the_stub_first():
    env = environment(Path("/stub"), 3, 8, 1, {"LD_LIBRARY_PATH": "/own", "DEVICE_ID": "2"})
    assert env == {
        "LD_LIBRARY_PATH": "/stub/lib64:/own",
        "PYTHONPATH": "/stub/opp/built-in/op_impl/ai_core/tbe",
        "ASCEND_HOME_PATH": "/stub",
        "ASCEND_OPP_PATH": "/stub/opp",
        "MS_SIMULATION_LEVEL": "1",
        "RANK_SIZE": "8",
        "RANK_ID": "3",
    }


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match=r"g\+\+ and readelf are not found\n.*apt-get install g\+\+ binutils"):
        ensure_stub(tmp_path)
    monkeypatch.setattr(stub_cann.platform, "machine", lambda: "aarch64")
    with pytest.raises(SetupError, match="Linux on x86-64, this is linux on aarch64"):
        ensure_stub(tmp_path)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A g++ that fails and a readelf that says nothing, and no others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("g++", "echo 'ld: no space in here' >&2; exit 1"), ("readelf", "exit 0")):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(stub_cann.platform, "machine", lambda: "x86_64")


def test_a_compiler_that_fails_leaves_nothing(tools, tmp_path):
    cache = tmp_path / "cache"
    with pytest.raises(SetupError, match=r"g\+\+ failed: ld: no space in here"):
        ensure_stub(cache)
    assert [p.name for p in (cache / "ascend").iterdir()] == ["lock"]


def test_a_cache_that_is_a_file(tools, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(OutputError, match="cache"):
        ensure_stub(tmp_path / "cache")


def test_a_mindspore_without_the_plugin(tools, tmp_path, monkeypatch):
    monkeypatch.setattr(stub_cann.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="no Ascend plugin"):
        ensure_stub(tmp_path)
