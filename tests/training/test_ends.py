"""When a run evaluates, when it ends, and how a run that has ended is made longer."""

import json
import subprocess
import sys
import time

import pytest

from petrun.checkpoint.training_state import steps_of
from petrun.training.run_lock import LOCK
from tests.tiny import REVIEWS, write_base, write_rows

LINE = "train --base small --data rows.jsonl --eval-data reviews.jsonl --rank 2 --target q --lr 0.01 --batch-size 1 "


@pytest.fixture
def small(place):
    """Seven rows, so seven batches of one row."""
    write_base(place / "small", "bert", num_hidden_layers=1)
    write_rows(place / "rows.jsonl", [*REVIEWS, REVIEWS[0]])
    return place


def entries(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def evaluations(run):
    """(step, epoch) of each evaluation but that before the first step."""
    return [(e["step"], e["epoch"]) for e in entries(run) if "evaluation" in e and e["step"]]


def results(run):
    return json.loads((run / "results.json").read_text())


def test_an_epoch_ends_with_its_micro_batches(small, petrun):
    """7 batches, 4 to a step, 3 epochs: 6 steps of 4, 4, 4, 4, 4 and 1 batches, of which the 2nd, 4th and 6th reach an epoch's end."""
    done = petrun(LINE + "--accumulate 4 --epochs 3 --out run")
    assert done.code == 0, done.err
    assert evaluations(small / "run") == [(2, 1.142857), (4, 2.285714), (6, 3.0)]
    assert results(small / "run")["steps"] == 6
    # States are saved with the evaluations.
    assert steps_of(small / "run" / "state") == [6, 4]


def test_the_last_evaluation_of_an_early_stop_is_noted_once(small, petrun):
    """At so small a rate the accuracy stays what it is, so that no evaluation is better than the first."""
    line = (
        LINE.replace("--lr 0.01", "--lr 1e-4")
        + "--epochs 5 --set train.patience=2 --set train.best_metric=accuracy --out run"
    )
    done = petrun(line)
    assert done.code == 0, done.err
    steps = [step for step, _ in evaluations(small / "run")]
    assert steps == [7, 14, 21], "the first is the best, and two more are no better"
    assert done.out.count("step 21: ") == 1 and done.out.count("stopped early: ") == 1
    assert results(small / "run")["stopped"] == "no better accuracy in 2 evaluations; the best was at step 7"


def test_a_run_that_made_all_its_steps_was_not_stopped(small, petrun):
    """Patience is used up by the very last evaluation, when there is nothing left to stop."""
    line = (
        LINE.replace("--lr 0.01", "--lr 1e-4")
        + "--epochs 3 --set train.patience=2 --set train.best_metric=accuracy --out run"
    )
    done = petrun(line)
    assert done.code == 0, done.err
    assert [step for step, _ in evaluations(small / "run")] == [7, 14, 21]
    assert results(small / "run")["stopped"] is None and "stopped early" not in done.out


def test_a_finished_run_is_made_longer(small, petrun):
    """With a constant rate, three steps and then two more are five."""
    line = LINE + "--schedule constant --accumulate 2 --set train.eval_every_steps=2 "
    for folder, steps in (("whole", 5), ("run", 3)):
        done = petrun(line + f"--steps {steps} --out {folder}")
        assert done.code == 0, done.err
    run, whole = small / "run", small / "whole"
    done = petrun("resume run")
    assert done.code == 0 and "run is finished: there is nothing to resume" in done.out
    done = petrun("resume run --set train.steps=5")
    assert done.code == 2 and "train.steps: 3 -> 5" in done.err and "--allow train.steps" in done.err
    done = petrun("resume run --set train.steps=5 --allow train.steps")
    assert done.code == 0, done.err
    assert "run holds a run that is finished after 3 steps: it resumes after step 3" in done.out
    assert "results of its first 3 steps are kept in results-3.json" in done.out
    assert (run / "lora.ckpt").read_bytes() == (whole / "lora.ckpt").read_bytes()
    assert results(run)["steps"] == 5 and json.loads((run / "results-3.json").read_text())["steps"] == 3
    losses = [[e["loss"] for e in entries(each) if "loss" in e] for each in (run, whole)]
    assert losses[0] == losses[1] and len(losses[0]) == 5
    # The evaluation after the third step, which ended the shorter run, is still part of the log.
    assert [step for step, _ in evaluations(run)] == [2, 3, 4, 5]
    # The run knows its new length.
    done = petrun("resume run")
    assert done.code == 0 and "run is finished: there is nothing to resume" in done.out


WRONG = {
    "--allow train.stps": "--allow train.stps: no such setting. Did you mean train.steps",
    "--set train.stps=9": "unknown key train.stps. Did you mean train.steps",
    "--set train.steps=1 --allow train.steps": "run is finished after 2 steps, and these settings make 1",
    "--set optim.lr=0.5 --allow optim.lr": "run is finished after 2 steps, and these settings make 2",
    "--set data.path=few.jsonl": "data.path: [content ",
}


def test_what_a_finished_run_refuses(small, petrun):
    write_rows(small / "few.jsonl", REVIEWS[:2])
    assert petrun(LINE + "--steps 2 --out run").code == 0
    before = {path: path.read_bytes() for path in (small / "run").glob("*.*")}
    for words, message in WRONG.items():
        done = petrun(f"resume run {words}")
        assert done.code == 2 and message in done.err, (words, done.err)
    for path in (small / "run" / "state").glob("step-*"):
        path.unlink()
    done = petrun("resume run --set train.steps=4 --allow train.steps")
    assert done.code == 2 and "none of its training states is left" in done.err and "--init-delta run" in done.err
    assert {path: path.read_bytes() for path in (small / "run").glob("*.*")} == before


def test_two_processes_do_not_train_in_one_folder(small, petrun, outside):
    """The same command line again while the first still trains: refused by name, and the first one ends as if it were alone."""
    line = LINE + "--steps 400 --save-every 1 --schedule constant --out run"
    program = "import sys; from petrun.cli.app import main; sys.argv = ['petrun', *sys.argv[1:]]; main()"
    first = subprocess.Popen([sys.executable, "-c", program, *line.split()], stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not steps_of(small / "run" / "state") and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert first.poll() is None, first.stdout.read()
        done = petrun(line)
        assert (
            done.code == 1 and f"run: another process trains in this run folder: process {first.pid} on " in done.err
        ), done.out
    finally:
        first.terminate()
        out = first.communicate(timeout=120)[0]
    assert first.returncode == 143 and "to resume: petrun resume run" in out
    assert not (small / "run" / LOCK).exists()
    steps = [e["step"] for e in entries(small / "run") if "loss" in e]
    assert steps == list(range(1, len(steps) + 1))
    done = petrun(f"resume run --set train.steps={len(steps) + 1} --allow train.steps")
    assert done.code == 0, done.err


def test_a_link_that_leads_nowhere(small, petrun):
    (small / "link").symlink_to("gone")
    for out in ("link", "link/run"):
        done = petrun(LINE + f"--steps 1 --out {out}")
        assert done.code == 1 and "link is a link to gone, which does not exist" in done.err, done.err
