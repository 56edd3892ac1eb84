"""One process at a time writes into a run folder; what a killed process has left does not stand in the way."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from petrun.errors import OutputError
from petrun.training import run_lock
from petrun.training.run_lock import LOCK, RunLock, read_holder

HOLD = """
import sys, time
from pathlib import Path
from petrun.training.run_lock import RunLock
with RunLock(print) as lock:
    lock.take(Path(sys.argv[1]))
    print("taken", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "taken\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_refused_and_told_who_has_it(tmp_path, other):
    with RunLock(print) as lock, pytest.raises(OutputError, match=f"process {other.pid} on .*, since 20") as caught:
        lock.take(tmp_path)
    assert str(tmp_path) in caught.value.message and "another --out" in caught.value.hint
    assert read_holder(tmp_path / LOCK).process == other.pid, "the file is still the other's"


def test_a_killed_process_leaves_no_lock(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / LOCK).exists()
    with RunLock(print) as lock:
        lock.take(tmp_path)
        assert read_holder(tmp_path / LOCK).process == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_the_lock_ends_with_the_block(tmp_path):
    for _ in range(2):
        with RunLock(print) as lock:
            lock.take(tmp_path)
            lock.take(tmp_path)
            with RunLock(print) as second, pytest.raises(OutputError):
                second.take(tmp_path)
    with RunLock(print) as lock:
        lock.take(tmp_path)


def of_another_machine(folder, seconds_ago):
    """A lock file as another machine has left it, whose kernel lock does not reach here."""
    path = folder / LOCK
    path.write_text(json.dumps({"host": "far", "boot": "another", "process": 7, "since": "2026-01-01 10:00:00+08:00"}))
    moment = time.time() - seconds_ago
    os.utime(path, (moment, moment))
    return path


def test_an_old_lock_of_another_machine_is_taken_over(tmp_path):
    said = []
    of_another_machine(tmp_path, run_lock.STALE_SECONDS + 1)
    with RunLock(said.append) as lock:
        lock.take(tmp_path)
    assert said == []


def test_a_young_lock_of_another_machine_is_watched(tmp_path, monkeypatch):
    """It stands still: it is taken over once it is old. It moves: its process is alive, on a machine that cannot be asked."""
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.1)
    said = []
    of_another_machine(tmp_path, 0.5)
    with RunLock(said.append) as lock:
        lock.take(tmp_path)
        assert read_holder(tmp_path / LOCK).process == os.getpid()
    assert len(said) == 1 and "process 7 on far, since 2026-01-01" in said[0]
    path = of_another_machine(tmp_path, 0.5)
    beat = threading.Timer(0.2, os.utime, (path,))
    beat.start()
    with RunLock(said.append) as lock, pytest.raises(OutputError, match="process 7 on far"):
        lock.take(tmp_path)
    beat.join()
    assert read_holder(path).host == "far"


def test_its_process_shows_that_it_is_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.05)
    with RunLock(print) as lock:
        lock.take(tmp_path)
        os.utime(tmp_path / LOCK, (0, 0))
        deadline = time.monotonic() + 10
        while os.stat(tmp_path / LOCK).st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert os.stat(tmp_path / LOCK).st_mtime > 0


def test_a_disk_without_locks(tmp_path, monkeypatch):
    """Only the file's time tells there, on the same machine as well."""

    def refuse(*_):
        raise OSError(run_lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(run_lock.fcntl, "flock", refuse)
    with RunLock(print) as lock:
        lock.take(tmp_path)
        with RunLock(print) as second, pytest.raises(OutputError, match=f"process {os.getpid()}"):
            second.take(tmp_path)


def test_a_folder_that_takes_no_files(tmp_path):
    with RunLock(print) as lock, pytest.raises(OutputError, match=r"run\.lock: cannot be written"):
        lock.take(tmp_path / "missing")
