"""A run that goes on from a training state ends as the run that was never stopped: same bytes, same log."""

import json
import shutil
import signal

import pytest

from petrun.checkpoint.state import find_state, steps_of
from petrun.runs.saving import Saver
from petrun.train.stop import stop_request
from tests.tiny import REVIEWS, write_rows

ROWS = [{"text": row["text"] + " not the film" * (i % 3), "label": row["label"]} for i, row in enumerate(REVIEWS * 2)]
TRAIN = (
    "train --base bert --data rows.jsonl --eval-data reviews.jsonl --algo adalora --rank 2 --target q --dropout 0.2 --batch-size 2 "
    "--accumulate 2 --lr 0.01 --steps 10 --set train.eval_every_steps=3 --set delta.delta_t=2 --set data.buckets=2 "
)
LORA = "train --base bert --data reviews.jsonl --rank 2 --dropout 0.2 --batch-size 2 "


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def log_of(folder):
    """The log without the two figures that tell the time."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in lines]


def killed_at(run, step, copy):
    """A copy of a finished run as a kill just after `step` was saved would have left it, but for a log that is ahead."""
    shutil.copytree(run, copy)
    for path in (*copy.glob("adalora.ckpt"), *copy.glob("lora.ckpt"), copy / "results.json"):
        path.unlink(missing_ok=True)
    for path in (copy / "state").glob("step-*"):
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()
    return copy


def same_run(one, two, delta):
    for name in (delta, "best.ckpt"):
        assert (one / name).exists() == (two / name).exists()
        if (one / name).exists():
            assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert log_of(one) == log_of(two)
    first, second = (json.loads((run / "results.json").read_text()) for run in (one, two))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    last = max(set(steps_of(one / "state")) & set(steps_of(two / "state")))
    states = [run / "state" / f"step-{last:08d}.safetensors" for run in (one, two)]
    first, second = (find_state(run / "state", below=last + 1).state for run in (one, two))
    assert first.shapes == second.shapes
    assert all(first.read(name).tobytes() == second.read(name).tobytes() for name in first.shapes), states


def test_a_resumed_run_equals_the_uninterrupted_one(place, petrun):
    """Dropout, accumulation, AdaLoRA's budget, two lengths of batches, evaluation in between, from several steps."""
    write_rows(place / "rows.jsonl", ROWS)
    done = petrun(TRAIN + "--out whole --save-every 1 --keep 99")
    assert done.code == 0, done.err
    whole = place / "whole"
    assert steps_of(whole / "state") == list(range(10, 0, -1))
    assert {"adalora_sensitivity", "adam_m"} < {name.split(".")[0] for name in find_state(whole / "state").state.shapes}
    # In the middle of an epoch, before the first evaluation; other intervals; the run's own folder, told or found by itself.
    for step, line in ((2, "resume {} --save-every 4"), (7, TRAIN + "--out {}")):
        copy = killed_at(whole, step, place / f"copy-{step}")
        done = petrun(line.format(copy.name))
        assert done.code == 0, done.err
        assert f"{copy.name} holds a run that did not finish: it goes on after step {step}" in done.out
        same_run(whole, copy, "adalora.ckpt")
    assert steps_of(place / "copy-2" / "state")[:2] == [8, 4]
    done = petrun("resume whole")
    assert done.code == 0 and "whole is finished: there is nothing to go on with" in done.out


def test_what_else_a_run_may_be_told(place, petrun, monkeypatch):
    """A wish in the folder, a limit of time, a signal; then changes of settings and data, and torn states."""
    done = petrun(LORA + "--steps 6 --out whole --save-every 1 --keep 99")
    assert done.code == 0, done.err
    run = place / "run"
    ask = Saver.on_step

    def on_step(self, evaluated):
        progress = self.keeper.progress
        if progress.step == 1:
            (run / "save").write_text("")
        if progress.step == 3:
            stop_request().note(signal.SIGTERM)
        return ask(self, evaluated)

    monkeypatch.setattr(Saver, "on_step", on_step)
    done = petrun(LORA + "--steps 6 --out run")
    assert done.code == 143 and "stopped by SIGTERM after step 3 of 6; its state is saved" in done.out
    assert "to go on: petrun resume run" in done.out and done.err.endswith("interrupted\n")
    assert steps_of(run / "state") == [3, 1] and names(run) == ["log.jsonl", "run.yaml", "state"]
    monkeypatch.undo()
    monkeypatch.chdir(place)
    (place / "reviews.jsonl").rename(place / "before.jsonl")
    write_rows(place / "reviews.jsonl", [*REVIEWS, REVIEWS[0]])
    done = petrun("resume run --set optim.lr=0.5")
    assert done.code == 2 and "run was begun with other settings or data:" in done.err
    assert "optim.lr: 0.001 -> 0.5" in done.err and "data.path: [content " in done.err
    assert "--allow data.path,optim.lr" in done.err
    done = petrun("resume run --allow optim.lr,data.paths")
    assert done.code == 2 and "--allow data.paths: no such setting. Did you mean data.path" in done.err
    # By another name the same content is the same data.
    (place / "reviews.jsonl").unlink()
    newest = run / "state" / "step-00000003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    done = petrun("resume run --set data.path=before.jsonl --max-time 1s")
    assert done.code == 0 and f"torn state: {newest.relative_to(place)}: is cut off" in done.out
    assert "it goes on after step 1" in done.out and "the time is up after step 2 of 6" in done.out
    done = petrun("resume run --set data.path=before.jsonl")
    assert done.code == 0, done.err
    same_run(place / "whole", run, "lora.ckpt")


def test_changes_that_are_allowed_are_noted(place, petrun):
    done = petrun(LORA + "--steps 2 --out run --save-every 1")
    assert done.code == 0, done.err
    killed_at(place / "run", 1, place / "copy")
    done = petrun("resume copy --set train.steps=4 --set optim.lr=0.5 --allow train.steps,optim.lr")
    assert done.code == 0 and "allowed: optim.lr: 0.001 -> 0.5" in done.out, done.err
    log = log_of(place / "copy")
    assert [line["step"] for line in log] == [1, 2, 3, 4] and log[1]["lr"] > 0.1
    assert json.loads((place / "copy" / "state" / "identity.json").read_text())["optim.lr"] == 0.5


@pytest.mark.parametrize(
    ("line", "words", "code"),
    [
        ("resume nowhere", "nowhere does not exist", 2),
        ("resume bert", "bert holds no run: it has no run.yaml", 2),
        ("resume reviews.jsonl", "reviews.jsonl is not a folder", 2),
        ("train --resume bert-lora --out other", "--out other contradicts --resume bert-lora", 2),
        ("train --base bert --data reviews.jsonl --max-time soon", "--max-time: 'soon' is not valid", 2),
        ("train --base bert --data reviews.jsonl --on-nan hope", "--on-nan: 'hope' is not valid", 2),
    ],
)
def test_what_cannot_go_on(refused, line, words, code):
    refused(line, [words], code)
