"""Files and folders appear whole or not at all, whatever goes wrong."""

import errno
import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest

from petrun.errors import OutputError
from petrun.tensors import (
    TensorEntry,
    array_entries,
    atomic_file,
    atomic_folder,
    open_tensors,
    write_ckpt,
    write_safetensors,
    write_safetensors_folder,
)
from petrun.tensors import atomic as atomic_module
from petrun.tensors import writers as writers_module

WRITERS = {"ckpt": write_ckpt, "safetensors": write_safetensors}
LARGE = array_entries({"a": np.ones(1000, np.float32), "b": np.ones(200_000, np.float32)})


@pytest.fixture(params=WRITERS)
def target(request, tmp_path):
    """(path of a file that exists already, its writer)."""
    path = tmp_path / f"out.{request.param}"
    path.write_bytes(b"what was here before")
    return path, WRITERS[request.param]


def refused(target, message, hint):
    path, write = target
    with pytest.raises(OutputError, match=message) as caught:
        write(path, LARGE)
    assert caught.value.message.startswith(str(path)) and hint in caught.value.hint
    assert path.read_bytes() == b"what was here before"
    assert list(path.parent.iterdir()) == [path], "a temporary file was left behind"


def failing(code):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("function", ["fsync", "replace", "open"])
@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        (errno.ENOSPC, "cannot be written: No space left on device", "Free some space"),
        (errno.EACCES, "cannot be written: Permission denied", "permissions"),
        (errno.EROFS, "cannot be written: Read-only file system", "another"),
        (errno.EIO, "cannot be written: Input/output error", "Check the disk"),
    ],
)
def test_an_error_at_any_step_leaves_nothing(target, monkeypatch, function, code, message, hint):
    monkeypatch.setattr(atomic_module.os, function, failing(code))
    refused(target, message, hint)


def test_an_error_while_writing_leaves_nothing(target):
    """The system itself refuses, in the middle of the second tensor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        refused(target, "cannot be written: File too large", "write shards")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    with pytest.raises(OutputError, match="Permission denied"):
        write_ckpt(folder / "a.ckpt", LARGE)


def test_no_such_folder_and_a_folder_in_the_way(tmp_path):
    with pytest.raises(OutputError, match="No such file or directory") as caught:
        write_ckpt(tmp_path / "none" / "a.ckpt", LARGE)
    assert "create it" in caught.value.hint
    (tmp_path / "a.ckpt").mkdir()
    with pytest.raises(OutputError, match="Is a directory"):
        write_ckpt(tmp_path / "a.ckpt", LARGE)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="Not a directory"):
        write_ckpt(tmp_path / "file" / "a.ckpt", LARGE)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing(target, error):
    path, write = target

    def interrupted():
        raise error

    with pytest.raises(error):
        write(path, [*LARGE, TensorEntry("c", (1,), "float32", interrupted)])
    assert list(path.parent.iterdir()) == [path] and path.read_bytes() == b"what was here before"


def test_a_refused_check_leaves_nothing(target):
    path, write = target

    def check():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write(path, LARGE, check=check)
    assert list(path.parent.iterdir()) == [path] and path.read_bytes() == b"what was here before"


def test_what_is_read_back_is_compared(target, monkeypatch):
    """A disk that stores something else than what it was given."""
    monkeypatch.setattr(writers_module, "_drop_cache", lambda file: os.pwrite(file.fileno(), b"\x01", 3000))
    monkeypatch.setattr(atomic_module.os, "O_WRONLY", os.O_RDWR)
    refused(target, r"what was read back differs from what was written \(tensor [ab]\)", "faulty")


def test_success_replaces_the_old_file(target):
    path, write = target
    write(path, LARGE)
    assert list(path.parent.iterdir()) == [path]
    assert open_tensors(path).read("b").sum() == 200_000


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permissions_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_ckpt(tmp_path / "a.ckpt", LARGE)
        with atomic_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a.ckpt").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_name_near_the_file_systems_limit(tmp_path):
    path = tmp_path / ("n" * 250)
    with atomic_file(path) as (file, _):
        file.write(b"x")
    assert path.read_bytes() == b"x"


def test_folder_appears_whole(tmp_path):
    out = tmp_path / "deep" / "out"
    with atomic_folder(out) as folder:
        (folder / "a").write_text("x")
        assert not out.exists()
    assert [p.name for p in out.parent.iterdir()] == ["out"] and (out / "a").read_text() == "x"


def test_folder_replaces_an_empty_one_only(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with atomic_folder(out) as folder:
        (folder / "a").write_text("x")
    with pytest.raises(OutputError, match="exists and is not an empty folder"), atomic_folder(out):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="exists and is not an empty folder"), atomic_folder(tmp_path / "file"):
        pass


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_failed_folder_leaves_nothing(tmp_path, error):
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected), atomic_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_programming_errors_are_told(tmp_path):
    ones = np.ones(2, np.float32)
    for entries, message in (
        ([TensorEntry("a", (2,), "float32", lambda: ones)] * 2, "written twice"),
        ([TensorEntry("a", (3,), "float32", lambda: ones)], "announced as"),
        ([TensorEntry("a", (2,), "float32", lambda: b"xyz")], "8 bytes announced, 3 came"),
        ([TensorEntry("a", (2,), "float31", lambda: ones)], "unknown element type"),
    ):
        with pytest.raises(ValueError, match=message):
            write_safetensors(tmp_path / "a.safetensors", entries)
    assert list(tmp_path.iterdir()) == []


def test_a_device_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/null")):
        with pytest.raises(OutputError, match="is not a file but a device or a pipe"), atomic_file(path):
            pass
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_a_link_keeps_pointing_at_its_file(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    with atomic_file(tmp_path / "link") as (file, _):
        file.write(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"new"


def test_a_shard_that_fails_stops_the_others(tmp_path):
    """Two are written at a time; the rest is not begun, and the error is the one that was raised."""
    asked = []

    def load(i):
        asked.append(i)
        if i == 1:
            raise KeyboardInterrupt
        time.sleep(0.05)
        return np.ones(100, np.float32)

    entries = [TensorEntry(f"t{i}", (100,), "float32", lambda i=i: load(i)) for i in range(40)]
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "model") as folder:
        write_safetensors_folder(folder, entries, max_shard_bytes=400)
    assert len(asked) < 20 and list(tmp_path.iterdir()) == []
