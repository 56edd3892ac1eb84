"""A run is followed from its folder: what is new in the log, how much is left, and whether it still works."""

import json
import os
import time

import pytest

from petrun.training.report.watch import RunView, curve
from petrun.training.run_lock import LOCK
from petrun.training.run_record import read_run
from tests.training.report.runs import RECEIPT, record, write_run


@pytest.fixture
def run(tmp_path):
    """At step 2 of 8, which take 2 s each."""
    return write_run(tmp_path / "run", steps=2, finished=False, train={"steps": 8, "epochs": None})


def add(run, *records):
    with (run / "log.jsonl").open("a") as file:
        file.write("".join(json.dumps(each) + "\n" for each in records))


def hold(run, age=0.0):
    holder = {"host": "h", "boot": "b", "process": 7, "since": "today"}
    (run / LOCK).write_text(json.dumps(holder))
    os.utime(run / LOCK, (time.time() - age,) * 2)


def test_progress_and_the_time_left_come_from_the_log(run):
    view = RunView(read_run(run))
    assert view.progress == 0.25 and view.seconds_left == pytest.approx(6 * 2.0)
    assert "step 2, epoch 1, 0:00:12 left" in view.text() and "1.0 GiB at most" in view.text()
    assert view.line().startswith("step 2  loss 1  lr 5.00e-02  loss 0.1, exact_match 0.5  0:00:12 left")


def test_epochs_say_how_long_a_run_is_where_no_steps_are_asked_for(tmp_path):
    three = write_run(tmp_path / "three", steps=3, finished=False)
    assert RunView(read_run(three)).progress == pytest.approx(1.5 / 3)
    two = write_run(tmp_path / "two", steps=3, finished=False, train={"steps": None, "epochs": 2})
    assert RunView(read_run(two)).progress == pytest.approx(1.5 / 2)


def test_new_lines_are_taken_and_a_log_that_was_cut_is_read_anew(run):
    view = RunView(read_run(run))
    add(run, record(3, 0.5), record(4, float("nan")))
    view.read_on()
    assert [each["step"] for each in view.run.steps] == [1, 2, 3, 4] and "loss -" in view.line()
    lines = (run / "log.jsonl").read_text().splitlines()[:2]
    (run / "log.jsonl").write_text("\n".join(lines) + "\n")
    view.read_on()
    assert [each["step"] for each in view.run.steps] == [1]


def test_it_ends_with_the_run(run):
    view = RunView(read_run(run))
    results = {"base": {}, "delta": {}, "seconds": 3700.0, "receipt": {**RECEIPT, "failures": ["nothing was learned"]}}
    (run / "results.json").write_text(
        json.dumps({**results, "trainable_parameters": 1, "all_parameters": 2, "delta_bytes": 3})
    )
    assert not view.ended
    view.read_on()
    assert view.ended and view.seconds_left is None
    assert "finished in 1:01:40" in view.text() and "nothing was learned" in view.text()


def test_the_lock_says_whether_it_works(run):
    assert "stopped; to resume: petrun resume" in RunView(read_run(run)).state
    hold(run)
    assert RunView(read_run(run)).state == "at work: process 7 on h, since today"
    hold(run, age=1000)
    assert "has not been heard of for 1000 s" in RunView(read_run(run)).state


def test_a_run_before_its_first_step(tmp_path):
    run = write_run(tmp_path / "run", steps=0, finished=False)
    (run / "log.jsonl").unlink()
    view = RunView(read_run(run))
    assert "before the first step" in view.line() and view.progress is None and "state" in view.text()


def test_the_curve_falls_with_the_losses():
    assert curve([8, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"
    assert curve([1.0]) == "▁" and len(curve([float(n) for n in range(1000)])) == 48
