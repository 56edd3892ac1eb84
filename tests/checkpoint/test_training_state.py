"""Training states: whole or nothing, whatever goes wrong while one is written or lies on the disk."""

import errno
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from petrun.checkpoint import training_state as state_module
from petrun.checkpoint.training_state import clear, find_state, read_state, save_state, steps_of
from petrun.errors import OutputError, TrainingError, WeightsError
from petrun.tensors import atomic as atomic_module

TENSORS = {
    "w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "adam_m.w": np.full((3, 4), -0.0, np.float32),
    "adam_step": np.array(7, np.int32),
    "empty": np.zeros((0, 2), np.float32),
    "half": np.array([1.5], np.float16),
}
IDENTITY = {"optim.lr": 1e-5, "data.path": ["a" * 64], "train.epochs": None}
NOTES = {"step": 120, "loss_last": 0.1 + 0.2, "best_value": None, "first": {"loss": float("inf")}}


def save(folder, step, keep=2):
    return save_state(folder, step, TENSORS, IDENTITY, NOTES, keep)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back_to_the_bit(tmp_path):
    path = save(tmp_path / "state", 120)
    state = find_state(tmp_path / "state").state
    assert (state.path, state.step, state.identity, state.notes) == (path, 120, IDENTITY, NOTES)
    assert set(state.shapes) == set(TENSORS)
    for name, values in TENSORS.items():
        found = state.read(name)
        assert (found.dtype, found.shape, found.tobytes()) == (values.dtype, values.shape, values.tobytes()), name


def test_steps_are_numbers_and_the_newest_are_kept(tmp_path):
    for step in (9, 100_000_000, 10):
        save(tmp_path, step, keep=9)
    # What came after step 10 belongs to a course that was left.
    assert steps_of(tmp_path) == [10, 9]
    for step in (11, 12):
        save(tmp_path, step)
    (tmp_path / "step-7.txt").write_text("somebody's")
    assert steps_of(tmp_path) == [12, 11] and find_state(tmp_path).state.step == 12
    assert find_state(tmp_path, below=12).state.step == 11 and find_state(tmp_path, below=11).state is None
    assert len(names(tmp_path)) == 5 and find_state(tmp_path / "none").state is None


FLIPS = {
    "header": (lambda size: 12, "its header"),
    "description": (lambda size: 60, "its header"),
    "middle": (lambda size: size - 30, "tensor adam_m.w is not what was written"),
    "last byte": (lambda size: size - 1, "tensor half is not what was written"),
}


@pytest.mark.parametrize("place", FLIPS)
def test_a_flipped_bit_is_found_and_named(tmp_path, place):
    save(tmp_path, 1), save(tmp_path, 2)
    path = tmp_path / "step-00000002.safetensors"
    content = bytearray(path.read_bytes())
    where, words = FLIPS[place]
    content[where(len(content))] ^= 16
    path.write_bytes(content)
    found = find_state(tmp_path)
    assert found.state.step == 1 and len(found.torn) == 1
    assert found.torn[0].startswith(f"{path}: ") and words in found.torn[0], found.torn


@pytest.mark.parametrize("left", [0, 5, 40, -200, -1], ids=["nothing", "length", "header", "middle", "last byte"])
def test_a_file_that_was_cut_off_is_found_and_named(tmp_path, left):
    save(tmp_path, 1), save(tmp_path, 2)
    path = tmp_path / "step-00000002.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:left])
    found = find_state(tmp_path)
    assert found.state.step == 1
    assert found.torn == (f"{path}: is cut off: {len(content[:left])} of {len(content)} bytes",)
    path.write_bytes(content + b"\0")
    assert "has grown" in find_state(tmp_path).torn[0]


def test_marks(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, keep=9)
    (tmp_path / "step-00000005.json").unlink()
    (tmp_path / "step-00000004.safetensors").unlink()
    (tmp_path / "step-00000003.json").write_text('{"bytes": 3}')
    (tmp_path / "step-00000002.json").write_text("\0")
    found = find_state(tmp_path)
    assert found.state.step == 1
    for text, words in zip(
        found.torn,
        ("was not finished", "is gone", "completion mark is damaged", "completion mark is damaged"),
        strict=True,
    ):
        assert words in text
    (tmp_path / ".step-00000006.safetensors.ab12.tmp").write_text("half a state")
    clear(tmp_path)
    save(tmp_path, 6, keep=1)
    assert names(tmp_path) == ["step-00000006.json", "step-00000006.safetensors"]


def test_a_state_of_a_newer_petrun(tmp_path, monkeypatch):
    monkeypatch.setattr(state_module, "FORMAT", 2)
    save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(TrainingError, match="is a state of format 2; this petrun reads format 1"):
        find_state(tmp_path)


class Disk:
    """Calls of the system that write; the one numbered `at` fails."""

    def __init__(self, monkeypatch, at, code):
        self.at, self.code, self.count = at, code, 0
        for name in ("open", "fsync", "replace"):
            monkeypatch.setattr(atomic_module.os, name, self.faulty(getattr(os, name)))
        real = os.fdopen

        def fdopen(*arguments, **keywords):
            return File(real(*arguments, **keywords), self)

        monkeypatch.setattr(atomic_module.os, "fdopen", fdopen)

    def hit(self):
        self.count += 1
        if self.count == self.at:
            raise OSError(self.code, os.strerror(self.code))

    def faulty(self, real):
        def call(*arguments, **keywords):
            self.hit()
            return real(*arguments, **keywords)

        return call


class File:
    """A file of which one write fails, after half of the bytes."""

    def __init__(self, file, disk):
        self.file, self.disk = file, disk

    def __enter__(self):
        self.file.__enter__()
        return self

    def __exit__(self, *error):
        return self.file.__exit__(*error)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        try:
            self.disk.hit()
        except OSError:
            self.file.write(bytes(data)[: len(data) // 2])
            raise
        return self.file.write(data)


def points():
    """How many calls a save makes."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        disk = Disk(patch, 0, 0)
        save(Path(folder), 1)
        return disk.count


CODES = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT)


def test_a_fault_at_any_point_of_a_save_leaves_the_state_before_it(tmp_path, monkeypatch):
    """Every call that a save makes, failing with every error: the previous state loads, always."""
    count = points()
    assert count > 15
    failed = 0
    for code in CODES:
        for at in range(1, count + 1):
            folder = tmp_path / f"{code}-{at}"
            save(folder, 1, keep=1)
            before = {path.name: path.read_bytes() for path in folder.iterdir()}
            with monkeypatch.context() as patch:
                Disk(patch, at, code)
                try:
                    save(folder, 2, keep=1)
                except OutputError as error:
                    failed += 1
                    assert str(folder) in error.message and error.hint
                    assert {name: (folder / name).read_bytes() for name in before} == before
                    assert not [name for name in names(folder) if name.endswith(".tmp")]
                    expected = 1
                else:
                    # A folder that cannot be synced is no failure; the state is there.
                    expected = 2
            found = find_state(folder)
            assert found.state.step == expected, (code, at)
            if found.torn:
                assert "was not finished" in found.torn[0]
            save(folder, 3, keep=1)
            assert find_state(folder).state.step == 3 and len(names(folder)) == 2
    # Opening and syncing the folder, after each of the two renames, may fail.
    assert failed == (count - 4) * len(CODES)


def test_a_short_write_is_noticed(tmp_path, monkeypatch):
    """The disk takes the bytes and loses some, without a word."""
    save(tmp_path, 1)

    class Losing(File):
        def write(self, data):
            self.file.write(bytes(data)[:-1] if len(data) > 40 else data)
            return len(data)

    real = os.fdopen
    monkeypatch.setattr(atomic_module.os, "fdopen", lambda *a, **k: Losing(real(*a, **k), None))
    with pytest.raises((OutputError, WeightsError)):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert find_state(tmp_path).state.step == 1 and not find_state(tmp_path).torn


def test_writing_the_same_step_again_never_leaves_it_worse(tmp_path, monkeypatch):
    """A run that goes on from an older state comes past a step that is saved already."""
    save(tmp_path, 1), save(tmp_path, 2)
    with monkeypatch.context() as patch:
        Disk(patch, 6, errno.ENOSPC)
        with pytest.raises(OutputError):
            save(tmp_path, 2)
    assert find_state(tmp_path).state.step == 2
    with pytest.raises(WeightsError, match="has no completion mark"):
        read_state(tmp_path, 3)


def test_a_folder_that_takes_no_file(tmp_path):
    (tmp_path / "state").write_text("a file")
    with pytest.raises(OutputError, match="state"):
        save(tmp_path / "state", 1)
    assert json.dumps(steps_of(tmp_path / "state")) == "[]"
