"""SIGKILL, which no program can catch: whatever the moment, the same command ends the run with the bytes of one never killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny import REVIEWS, write_base, write_rows
from tests.training.checkpointing.test_resume import same_run

TRAIN = (
    "train --base small --data reviews.jsonl --eval-data dev.jsonl --rank 2 --target q --dropout 0.2 --batch-size 2 --steps 60 "
    "--set train.eval_every_steps=15 --save-every 2 --out "
)
# The call of the system, counted over all saves from the first on, at which the process kills itself: before a file's bytes are synced
# or after, before it has its name or after, and between a state and its completion mark.
CALLS = """
import os, signal
from petrun.tensors import atomic

count = 0

def deadly(real):
    def call(*arguments, **keywords):
        global count
        if "state" in str(arguments[0]) or isinstance(arguments[0], int):
            count += 1
            if count == {at}:
                {before}os.kill(os.getpid(), signal.SIGKILL)
                real(*arguments, **keywords)
                os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **keywords)
    return call

atomic.os = type("Deadly", (), {{**vars(os), "fsync": staticmethod(deadly(os.fsync)), "replace": staticmethod(deadly(os.replace))}})
"""
AMID = [pytest.param(f"call {at}", marks=pytest.mark.all_only) for at in (14, 17, 20, 23, 26)]
RANDOM = [pytest.param(f"moment {seed}", marks=[] if seed == 0 else pytest.mark.all_only) for seed in range(5)]


@pytest.fixture
def kill(place):
    """kill(how): train into `killed` until the process is killed."""
    running = []

    def until_killed(how):
        kind, number = how.split()
        paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        if kind == "call":
            (place / "hook").mkdir()
            before = "" if int(number) % 2 else "pass; real(*arguments, **keywords); "
            (place / "hook" / "sitecustomize.py").write_text(CALLS.format(at=number, before=before))
            paths.insert(0, str(place / "hook"))
        process = subprocess.Popen(
            [sys.executable, "-m", "petrun", *TRAIN.split(), "killed"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=place,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        running.append(process)
        if kind == "moment":
            chance = random.Random(int(number))
            after = f"step {chance.randrange(3, 30, 3)}/"
            for line in process.stdout:
                if line.startswith(after):
                    break
            time.sleep(chance.uniform(0.0, 0.2))
            process.send_signal(signal.SIGKILL)
        _, err = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, err

    yield until_killed
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Filled by the first test: the run that was never killed."""
    return tmp_path_factory.mktemp("whole")


@pytest.mark.parametrize("how", [*AMID, *RANDOM])
def test_a_killed_run_ends_as_if_it_had_not_been(place, petrun, kill, whole, how):
    write_base(place / "small", "bert", num_hidden_layers=1)
    write_rows(place / "dev.jsonl", REVIEWS)
    if not any(whole.iterdir()):
        done = petrun(TRAIN + str(whole / "run"))
        assert done.code == 0, done.err
    kill(how)
    if how.startswith("moment") and (place / "killed" / "results.json").exists():
        # A loaded machine may hear of a step when the run is over.
        same_run(whole / "run", place / "killed", "lora.ckpt")
        return
    done = petrun(TRAIN + "killed")
    assert done.code == 0, done.err
    assert "killed holds a run that did not finish" in done.out
    same_run(whole / "run", place / "killed", "lora.ckpt")
