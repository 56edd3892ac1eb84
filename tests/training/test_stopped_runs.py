"""Work that ends before its end: NaN, a full disk, Ctrl-C, a closed pipe. What is on the disk afterwards is whole."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from petrun.checkpoint.delta import read_delta
from petrun.checkpoint.training_state import find_state
from petrun.commands import inspect as inspect_run
from petrun.tensors import atomic
from petrun.training.checkpointing import checkpointer
from tests.program import snapshot
from tests.tiny import REVIEWS, write_rows

TRAIN = "train --base bert --data reviews.jsonl --out run --steps 3"
FULL = os.strerror(errno.ENOSPC)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def log_of(folder):
    """Every line of the log; a broken one fails here."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def no_room(monkeypatch):
    """no_room(folder): renames into this folder fail as on a full disk."""

    def fill(folder, *endings):
        rename = os.replace, os.rename

        def refuse(real):
            def attempt(source, target):
                if Path(target).resolve().is_relative_to(folder) and str(target).endswith(endings or ("",)):
                    raise OSError(errno.ENOSPC, FULL)
                return real(source, target)

            return attempt

        monkeypatch.setattr(atomic.os, "replace", refuse(rename[0]))
        monkeypatch.setattr(atomic.os, "rename", refuse(rename[1]))

    return fill


@pytest.fixture
def rescue(tmp_path, monkeypatch):
    """The system's folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_loss_that_is_not_finite_names_step_and_rows(place, petrun):
    done = petrun(f"{TRAIN} --lr 1e30 --clip 0 --schedule constant --no-shuffle --batch-size 2")
    assert done.code == 1
    assert "error: step 2: the loss is not finite (loss nan); the batch held rows 2, 3 (counted from 0)." in done.err
    assert "Lower --lr, set --clip 1, or look at these rows" in done.err and "Traceback" not in done.err
    assert names(place / "run") == ["log.jsonl", "run.yaml", "state"]
    assert [entry["step"] for entry in log_of(place / "run")] == [1]


def test_a_loss_that_is_not_finite_before_any_update(place, petrun):
    (place / "net.py").write_text(
        "from mindspore import nn\n\n\nclass Net(nn.Cell):\n    inputs = ('x',)\n\n    def __init__(self):\n"
        "        super().__init__()\n        self.dense = nn.Dense(3, 2)\n\n    def construct(self, x):\n"
        "        return self.dense(x) / (x * 0).sum()\n\n\ndef build():\n    return Net()\n"
    )
    np.savez(place / "rows.npz", x=np.ones((4, 3), np.float32), label=[0, 1, 0, 1])
    done = petrun("train --model net.py:build --data rows.npz --out run --steps 2 --no-shuffle")
    assert done.code == 1
    assert "error: step 1: the loss is not finite (loss nan); the batch held rows 0, 1, 2, 3" in done.err
    assert "--lr is not to blame" in done.err
    assert names(place / "run") == ["log.jsonl", "run.yaml", "state"] and log_of(place / "run") == []


def test_a_full_disk_when_the_delta_is_saved(place, petrun, no_room, rescue):
    no_room(place, ".ckpt")
    done = petrun(TRAIN)
    assert done.code == 1 and "Traceback" not in done.err
    assert f"error: run/lora.ckpt: cannot be written: {FULL}" in done.err
    assert "Free some space, or choose a folder on another disk." in done.err
    assert names(place / "run") == ["log.jsonl", "run.yaml", "state"] and len(log_of(place / "run")) == 3
    saved = list(rescue.rglob("lora.ckpt"))
    assert len(saved) == 1 and f"What was trained up to step 3 is saved: {saved[0]}" in done.err
    delta = read_delta(saved[0])
    assert delta.manifest.step == 3 and np.abs(delta.tensors["layers.0.attn.q.mindpet_delta_lora_b"]).max() > 0


def test_a_disk_that_is_full_everywhere(place, petrun, no_room, rescue):
    no_room(place.parent, ".ckpt")
    done = petrun(TRAIN)
    assert done.code == 1 and f"error: run/lora.ckpt: cannot be written: {FULL}" in done.err
    assert "is saved" not in done.err and "Traceback" not in done.err
    assert not [
        path for path in place.parent.rglob("*") if path.suffix in (".ckpt", ".tmp") and "-lora" not in path.parent.name
    ]


def test_a_full_disk_when_the_log_is_written(place, petrun, rescue):
    """The log of an unfinished run leads to a device that takes no byte."""
    run = place / "run"
    run.mkdir()
    (run / "run.yaml").write_text("algo: lora\n")
    (run / "log.jsonl").symlink_to("/dev/full")
    done = petrun(TRAIN)
    assert done.code == 1 and "Traceback" not in done.err
    assert f"error: run/log.jsonl: cannot be written: {FULL}" in done.err
    saved = list(rescue.rglob("lora.ckpt"))
    assert f"What was trained up to step 1 is saved: {saved[0]}" in done.err
    assert read_delta(saved[0]).manifest.step == 1


def test_a_full_disk_when_the_results_are_written(place, petrun, no_room, monkeypatch):
    # However long three steps take, no state is saved before that of the last.
    monkeypatch.setattr(checkpointer, "_PAUSE_SECONDS", 1e9)
    no_room(place, "results.json")
    done = petrun(TRAIN)
    assert done.code == 1 and f"error: run/results.json: cannot be written: {FULL}" in done.err
    assert names(place / "run") == ["log.jsonl", "lora.ckpt", "run.yaml", "state"]
    assert read_delta(place / "run" / "lora.ckpt").manifest.step == 3
    # The same run comes to the same delta; another one does not touch it.
    delta = (place / "run" / "lora.ckpt").read_bytes()
    again = petrun(f"{TRAIN} --lr 0.5")
    assert again.code == 2 and "optim.lr: 0.001 -> 0.5" in again.err
    again = petrun(TRAIN)
    assert again.code == 1 and "run holds a run that did not finish: it resumes after step 3" in again.out
    assert (place / "run" / "lora.ckpt").read_bytes() == delta


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("predict --base bert --delta bert-lora --data reviews.jsonl --out old.json", "old.json"),
        ("predict --base bert --delta bert-lora --data reviews.jsonl --logits l.safetensors", "l.safetensors"),
        ("eval --base bert --delta bert-lora --data reviews.jsonl --out old.json", "old.json"),
        ("merge --base bert --delta bert-lora --out merged", "merged"),
        ("merge --base bert --delta bert-lora --out merged.ckpt", "merged.ckpt"),
        ("train --base bert --data reviews.jsonl --out run", "run/run.yaml"),
    ],
)
def test_a_full_disk_for_a_result(place, petrun, no_room, line, target):
    (place / "old.json").write_text("precious")
    before = snapshot(place)
    no_room(place, Path(target).name)
    done = petrun(line)
    assert done.code == 1 and "Traceback" not in done.err
    assert f"error: {target}: cannot be written: {FULL}" in done.err and "Free some space" in done.err
    after = snapshot(place)
    # Training had made its folder; nothing else is new, and no old file has changed.
    assert {key: after[key] for key in before} == before and set(after) - set(before) <= {"run"}


def test_a_cache_that_cannot_be_written_stops_nothing(place, petrun, monkeypatch):
    (place / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "file"))
    done = petrun("train --base bert --data reviews.jsonl --dry-run")
    assert done.code == 0 and "this film is good" in done.out, done.err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "some/file"), "error: some/file: Permission denied"),
        (MemoryError(), "error: there is not enough memory\nTry a smaller --batch-size"),
    ],
)
def test_what_the_system_refuses_without_warning(petrun, place, monkeypatch, error, words):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(inspect_run, "run", fail)
    done = petrun("inspect bert")
    assert done.code == 1 and words in done.err


def test_names_that_are_no_text(place, petrun):
    """Paths are bytes; a byte that is no UTF-8 must not cost a run."""
    odd = b"b\xe9rt".decode("utf-8", "surrogateescape")
    (place / "bert").rename(place / odd)
    done = petrun(["train", "--base", odd, "--data", "reviews.jsonl", "--steps", "1", "--out", f"{odd}-run"])
    assert done.code == 0, done.err
    assert read_delta(place / f"{odd}-run").manifest.base.name == "b?rt"
    done = petrun(["eval", "--base", odd, "--delta", f"{odd}-run", "--data", "reviews.jsonl", "--out", f"{odd}.json"])
    assert done.code == 0, done.err
    assert json.loads((place / f"{odd}.json").read_text())["rows"] == 6


# The program itself, in a process of its own.


@pytest.fixture
def start(place):
    """start("train ...") -> the running process, its output as pipes."""
    running = []

    def begin(line, folders=()):
        root = Path(__file__).resolve().parents[2]
        paths = os.pathsep.join([*folders, str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            [sys.executable, "-m", "petrun", *line.split()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=place,
            env={**os.environ, "PYTHONPATH": paths},
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.all_only)], ids=["Ctrl-C", "SIGTERM"]
)
def test_interrupted_while_training(place, start, number):
    write_rows(place / "dev.jsonl", REVIEWS)
    process = start(
        "train --base bert --data reviews.jsonl --eval-data dev.jsonl --steps 1000000 --out run --set train.eval_every_steps=5"
    )
    wait_for(process, "step 10:")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err == "stopping after this step; once more to stop at once\ninterrupted\n"
    assert names(place / "run") == ["best.ckpt", "log.jsonl", "run.yaml", "state"]
    steps = [entry["step"] for entry in log_of(place / "run") if "loss" in entry]
    assert steps[:3] == [1, 2, 3] and find_state(place / "run" / "state").state.step == steps[-1]
    assert read_delta(place / "run" / "best.ckpt").manifest.step >= 5


@pytest.mark.all_only
def test_a_second_signal_ends_it_at_once(place, start):
    """While MindSpore compiles the first step, where no handler of Python's runs."""
    process = start("train --base bert --data reviews.jsonl --algo adalora --steps 1000000 --out run")
    wait_for(process, "set by")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err.endswith("interrupted\n")


@pytest.mark.parametrize("seconds", [0.8, pytest.param(1.6, marks=pytest.mark.all_only)])
def test_interrupted_while_it_starts(place, start, seconds):
    """MindSpore's import does not survive an exception: the program ends by itself there."""
    process = start("train --base bert --data reviews.jsonl --steps 1000000 --out run")
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "interrupted\n"
    assert not (place / "run").exists() or names(place / "run") == ["log.jsonl", "run.yaml", "state"]


def test_the_reader_of_the_output_goes_away(place, start):
    process = start("train --base bert --data reviews.jsonl --steps 1000 --out run")
    wait_for(process, "step 1/")
    process.stdout.close()
    process.wait(timeout=60)
    assert process.returncode == 128 + signal.SIGPIPE and process.stderr.read() == ""
    assert names(place / "run") == ["log.jsonl", "run.yaml", "state"] and len(log_of(place / "run")) > 1


def test_the_reader_of_a_listing_goes_away(start):
    """As `petrun inspect ... | head -1` does."""
    process = start("inspect bert-lora --tensors")
    process.stdout.close()
    process.wait(timeout=60)
    assert process.returncode == 128 + signal.SIGPIPE and process.stderr.read() == ""


@pytest.mark.parametrize(("line", "code"), [("merge --base bert --delta nowhere --out m", 1), ("recipes ls", 0)])
def test_a_signal_after_the_last_word_ends_it_with_its_own_code(place, start, line, code):
    """As petrun's supervision, or a scheduler, ends a rank that has failed already."""
    # Registered after petrun's own function, and so called before it, as MindSpore's are.
    (place / "sitecustomize.py").write_text("""
import atexit, time

register = atexit.register

def register_behind_petrun(function, *args, **named):
    register(function, *args, **named)
    if function.__module__ == "petrun.cli.signals":
        register(lambda: (print("unloading", flush=True), time.sleep(60)))
    return function

atexit.register = register_behind_petrun
""")
    process = start(line, folders=[str(place)])
    while process.stdout.readline() != "unloading\n":
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert err == ("" if code == 0 else "error: nowhere: no such file or folder\n" + err.partition("\n")[2])
    assert "Traceback" not in err and "Stopped" not in err


def test_debug_shows_where_an_error_comes_from(place, start):
    shutil.rmtree(place / "bert")
    plain, debug = (
        start("merge --base bert --delta bert-lora --out m"),
        start("merge --base bert --delta bert-lora --out m --debug"),
    )
    out, err = plain.communicate(timeout=120)
    assert (plain.returncode, out) == (1, "")
    assert (
        err
        == "error: bert: no such file or folder\n--base takes a Hugging Face folder, a .safetensors or a .ckpt file.\n"
    )
    out, err = debug.communicate(timeout=120)
    assert debug.returncode != 0 and err.startswith("Traceback") and "bert: no such file or folder" in err


def test_a_fault_of_the_program_is_one_line(start, place):
    (place / "sitecustomize.py").write_text(
        "import petrun.training.run_folder\n\n\ndef fail(*_, **__):\n    raise ZeroDivisionError('secret\\nsecond line')\n\n\n"
        "petrun.training.run_folder.next_free = fail\n"
    )
    process = start("train --base bert --data reviews.jsonl", folders=[str(place)])
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert (
        err
        == "internal error: ZeroDivisionError: secret\nThis is a fault of petrun. Run again with --debug for the traceback.\n"
    )
