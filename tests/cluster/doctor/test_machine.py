"""Disk, threads, ports and programs of a machine, as they are and as they might be."""

import shutil
import socket
from types import SimpleNamespace

import pytest

from petrun.cluster.doctor import machine
from petrun.cluster.ranks import DEFAULT_PORT, cores_here


@pytest.mark.parametrize(("free", "verdict"), [(100 * 2**20, "blocks"), (2**29, "note"), (2**40, "ok")])
def test_room_on_the_disk(tmp_path, monkeypatch, free, verdict):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free, total=free))
    found = machine.disk("disk", tmp_path / "not" / "here", "run folders")
    assert found.verdict == verdict and str(tmp_path) in found.text and bool(found.mend) == (verdict != "ok")


def test_a_folder_that_cannot_be_written_blocks(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine, "require_writable", refuse)
    found = machine.disk("cache", tmp_path, "graphs")
    assert found.verdict == "blocks" and "Permission denied; graphs goes there" in found.text


def test_more_threads_than_cores_are_noted():
    cores = cores_here()
    assert machine.threads({}).verdict == machine.threads({"OMP_NUM_THREADS": str(cores)}).verdict == "ok"
    found = machine.threads({"OMP_NUM_THREADS": str(cores + 60)})
    assert (found.verdict, found.mend) == ("note", f"export OMP_NUM_THREADS={cores}")


def test_a_port_in_use_is_noted():
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", DEFAULT_PORT))
        except OSError:
            pytest.skip("another program of this machine listens there")
        listener.listen()
        found = machine.ports()
    assert found.verdict == "note" and "in use" in found.text


def test_memory_that_is_little_is_noted(monkeypatch):
    for free, verdict in ((2**30, "note"), (2**36, "ok"), (None, "note")):
        monkeypatch.setattr(machine, "available_bytes", lambda free=free: free)
        assert machine.memory().verdict == verdict


def test_a_machine_without_a_compiler_and_with_little_shared_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    compiler, _ = machine.programs()
    assert (compiler.verdict, compiler.mend) == ("note", "apt-get install g++")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(total=64 * 2**20))
    assert "--shm-size" in machine.shared_memory(tmp_path).mend
    assert machine.shared_memory(tmp_path / "none").verdict == "ok"
