"""Bases of two layers with deltas trained on them, and the commands run in this process as the program runs them."""

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
from dataclasses import dataclass

import pytest

from petrun.cli.app import main
from petrun.training.receipt import samples
from tests.tiny import CONFIGS, ORDERS, REVIEWS, write_base, write_rows


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def call(arguments):
    """The `petrun` program with these arguments, in this process. Returns its exit code; anything but an exit comes through."""
    stops = (signal.SIGINT, signal.SIGTERM)
    before = (sys.argv, sys.excepthook, [signal.getsignal(number) for number in stops])
    sys.argv = ["petrun", *arguments]
    try:
        main()
        return 0
    except SystemExit as end:
        return end.code or 0
    finally:
        sys.argv, sys.excepthook = before[:2]
        for number, handler in zip(stops, before[2], strict=True):
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def outside(tmp_path_factory):
    """Environment of the commands: the user's cache, and where MindSpore dumps what does not compile, away from the tests' folders."""
    folder = tmp_path_factory.mktemp("outside")
    return {"XDG_CACHE_HOME": str(folder / "cache"), "MS_OM_PATH": str(folder / "dumps"), "GLOG_v": "4"}


@pytest.fixture(scope="session")
def workplace(tmp_path_factory, outside):
    """bert, gpt2, llama, reviews.jsonl and orders.jsonl, and bert-lora and gpt2-lora, run folders of one step. Copied, never changed."""
    folder = tmp_path_factory.mktemp("workplace")
    for family in CONFIGS:
        write_base(folder / family, family)
    write_rows(folder / "reviews.jsonl", REVIEWS)
    write_rows(folder / "orders.jsonl", ORDERS)
    here = os.getcwd()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in outside.items():
            patch.setenv(name, value)
        os.chdir(folder)
        try:
            patch.setattr(samples, "sample_count", lambda config: 3)
            for family, rows in (("bert", "reviews"), ("gpt2", "orders")):
                line = f"train --base {family} --data {rows}.jsonl --rank 2 --steps 1 --out {family}-lora"
                assert call(shlex.split(line)) == 0
        finally:
            os.chdir(here)
    return folder


@pytest.fixture(autouse=True)
def no_samples(monkeypatch):
    """Answers for the receipt cost two graphs a run: the workplace's have them, and stand for all."""
    monkeypatch.setattr(samples, "sample_count", lambda config: 0)


@pytest.fixture
def place(tmp_path, workplace, outside, monkeypatch):
    """A copy of the workplace, which is the current folder."""
    folder = tmp_path / "place"
    shutil.copytree(workplace, folder)
    monkeypatch.chdir(folder)
    for name, value in outside.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def petrun(capfd):
    """petrun("train --base bert ...") -> Done. Everything that reaches the terminal is in it, MindSpore's own output too."""

    def run(line):
        capfd.readouterr()
        code = call(shlex.split(line) if isinstance(line, str) else line)
        return Done(code, *capfd.readouterr())

    return run


@pytest.fixture
def refused(place, petrun):
    """refused(line, words, code) -> Done: the command ends with that code and a message that holds the words; no file has changed."""

    def check(line, words, code=1):
        before = snapshot(place)
        done = petrun(line)
        said = " ".join(done.err.split())
        assert done.code == code, f"{done.code}: {done.err or done.out}"
        for word in words:
            assert word in said, done.err
        for never in ("Traceback", "internal error", "C++ Call Stack", "[ERROR]"):
            assert never not in done.err + done.out, done.err
        assert re.search("^(error|Usage): ", done.err, re.MULTILINE), done.err
        assert snapshot(place) == before, "the command left something behind, or changed a file"
        return done

    return check


def snapshot(folder):
    """Every path under the folder with its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def edit(path, **changes):
    """Change keys of a JSON file; None takes one away."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def cut(path, size=None):
    """Keep the first `size` bytes, or half of the file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 if size is None else size])
