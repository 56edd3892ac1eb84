"""A run that resumes from a training state ends as the run that was never stopped: same bytes, same log."""

import json
import shutil

import numpy as np
import pytest

from petrun.checkpoint.training_state import find_state, steps_of
from petrun.errors import TrainingError
from petrun.train.loop import Plan
from petrun.training.checkpointing.checkpointer import Checkpointer
from petrun.training.checkpointing.progress import RECENT, Progress
from petrun.training.checkpointing.verify import Interval, compare, compare_log
from tests.tiny import REVIEWS, write_base, write_rows

ROWS = [{"text": row["text"] + " not the film" * (i % 3), "label": row["label"]} for i, row in enumerate(REVIEWS * 2)]
TRAIN = (
    "train --base small --data rows.jsonl --eval-data reviews.jsonl --algo adalora --rank 2 --target q --dropout 0.2 --batch-size 2 "
    "--accumulate 2 --lr 0.01 --steps 10 --set train.eval_every_steps=3 --set delta.delta_t=2 --set data.buckets=2 "
)
LORA = "train --base small --data reviews.jsonl --rank 2 --target q --dropout 0.2 --batch-size 2 "


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def log_of(folder):
    """The log without the figures that tell time and memory."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second", "memory")} for line in lines]


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
    write_base(place / "small", "bert", num_hidden_layers=1)
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
        assert f"{copy.name} holds a run that did not finish: it resumes after step {step}" in done.out
        same_run(whole, copy, "adalora.ckpt")
    assert steps_of(place / "copy-2" / "state")[:2] == [8, 4]
    done = petrun("resume whole")
    assert done.code == 0 and "whole is finished: there is nothing to resume" in done.out


@pytest.mark.all_only
def test_what_else_a_run_may_be_told(place, petrun, monkeypatch):
    """A wish in the folder and a limit of time; then other settings and data, refused and allowed, a torn state, and a replay."""
    write_base(place / "small", "bert", num_hidden_layers=1)
    done = petrun(LORA + "--steps 6 --out whole --save-every 1 --keep 99")
    assert done.code == 0, done.err
    run = place / "run"
    ask = Checkpointer.on_step

    def on_step(self, evaluated):
        progress = self.recorder.progress
        if progress.step == 1:
            (run / "save").write_text("")
        if progress.step == 3:
            self.began -= 7200
        return ask(self, evaluated)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "on_step", on_step)
        done = petrun(LORA + "--steps 6 --out run --max-time 1h30m")
    assert done.code == 0 and "the time is up after step 3 of 6; its state is saved" in done.out, done.err
    assert "to resume: petrun resume run" in done.out and "step 1: saved, as run/save asks" in done.out
    assert steps_of(run / "state") == [3, 1] and names(run) == ["log.jsonl", "run.yaml", "state"]
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
    done = petrun("resume run --set data.path=before.jsonl --save-every 2")
    assert done.code == 0 and f"torn state: {newest.relative_to(place)}: is cut off" in done.out, done.err
    assert "it resumes after step 1" in done.out
    same_run(place / "whole", run, "lora.ckpt")
    done = petrun("resume --verify run --set data.path=before.jsonl")
    assert done.code == 0, done.err
    assert "tensors of run/lora.ckpt and " in done.out and " of the log are the same" in done.out
    killed_at(place / "whole", 5, place / "copy")
    # From another folder, whence `small` leads nowhere.
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    changes = "--set train.steps=7 --set optim.lr=0.5 --set data.path=../before.jsonl"
    done = petrun(f"resume ../copy {changes} --allow train.steps,optim.lr")
    assert done.code == 0 and "allowed: optim.lr: 0.001 -> 0.5" in done.out, done.err
    log = log_of(place / "copy")
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6, 7] and log[5]["lr"] > 0.02 > log[4]["lr"]
    assert json.loads((place / "copy" / "state" / "identity.json").read_text())["optim.lr"] == 0.5


def test_a_replay_that_differs_is_told(tmp_path):
    (tmp_path / "log.jsonl").write_text(
        '{"step": 3, "loss": 0.5, "lr": null, "seconds": 1}\n{"step": 3, "event": "x"}\n'
    )
    compare_log([{"step": 3, "loss": 0.5, "lr": float("nan"), "seconds": 2.0}], tmp_path / "log.jsonl")
    with pytest.raises(TrainingError, match=r"step 3: loss is 0.5 there, and 0.25 when it is replayed"):
        compare_log([{"step": 3, "loss": 0.25}], tmp_path / "log.jsonl")
    saved = {"a": np.zeros(3, np.float32), "b": np.array([1.0, 0.0], np.float32)}
    interval = Interval(None, 4, saved.__getitem__, tuple(saved), tmp_path / "x")
    compare({**saved, "c": np.ones(1)}, interval)
    with pytest.raises(TrainingError, match=r"up to step 4, 1 of 2 tensors differ, b by up to 0\n"):
        compare({**saved, "b": np.array([1.0, -0.0], np.float32)}, interval)
    with pytest.raises(TrainingError, match=r"a by up to 2\n"):
        compare({**saved, "a": np.array([0, -2, 0], np.float32)}, interval)


NET = """
from mindspore import nn


class Net(nn.Cell):
    inputs = ("x",)

    def __init__(self):
        super().__init__()
        self.dense = nn.Dense(3, 2)

    def construct(self, x):
        return self.dense(x) / x.sum(-1, keepdims=True)


def build():
    return Net()
"""


def test_a_leap_is_measured_against_the_last_losses():
    progress, plan = Progress(), Plan(micro_batches_per_epoch=100, accumulate=1, total_micro_batches=100)
    for step in range(1, RECENT + 5):
        assert not progress.is_spike(1e9, 3.0) or step > RECENT
        progress.advance({"step": step, "epoch": 0.0, "loss": 10.0 if step < 5 else 2.0}, plan)
    assert progress.is_spike(6.1, 3.0) and not progress.is_spike(5.9, 3.0)
    progress.left_out = progress.step + 1
    progress.advance({"step": progress.left_out, "epoch": 0.0, "loss": 1e9}, plan)
    assert progress.is_spike(6.1, 3.0) and Progress(**json.loads(json.dumps(progress.notes()))) == progress


def test_a_step_that_is_not_finite_is_left_out(place, petrun):
    """The row of zeros, alone in the batch of step 4, gives 0 / 0."""
    (place / "net.py").write_text(NET)
    x = np.random.default_rng(0).uniform(1, 2, (6, 3)).astype(np.float32)
    x[3] = 0
    np.savez(place / "rows.npz", x=x, label=[0, 1, 0, 1, 1, 0])
    line = "train --model net.py:build --data rows.npz --algo full --steps 6 --batch-size 1 --no-shuffle --save-every 2 --keep 9 "
    for policy, event in (("skip", {"event": "skipped"}), ("rewind", {"event": "rewound", "to": 2})):
        done = petrun(f"{line} --on-nan {policy} --out {policy}")
        assert done.code == 0 and "step 4: the loss is not finite (loss nan): " in done.out, done.err
        log = log_of(place / policy)
        assert [entry["step"] for entry in log] == [1, 2, 3, 4, 4, 5, 6]
        assert log[3] == {"step": 4, **event} and log[4]["loss"] is None
        assert np.isfinite(log[6]["loss"]) and json.loads((place / policy / "results.json").read_text())["steps"] == 6
    # Of step 4 the weights are those of step 3 in one run, of step 2 in the other.
    after = {p: find_state(place / p / "state", below=6).state for p in ("skip", "rewind")}
    assert [int(after[p].read("adam_step")) for p in after] == [3, 2]
    before = find_state(place / "rewind" / "state", below=4).state
    assert (after["rewind"].read("dense.weight") == before.read("dense.weight")).all()
    assert (after["skip"].read("dense.weight") != before.read("dense.weight")).any()


@pytest.mark.parametrize(
    ("line", "words", "code"),
    [
        ("resume nowhere", "nowhere does not exist", 2),
        ("resume bert", "bert holds no run: it has no run.yaml", 2),
        ("resume reviews.jsonl", "reviews.jsonl is not a folder", 2),
        ("train --resume bert-lora --out other", "--out other contradicts --resume bert-lora", 2),
        ("train --base bert --data reviews.jsonl --max-time soon", "--max-time: 'soon' is not valid", 2),
        ("train --base bert --data reviews.jsonl --on-nan skip --spike 3", "--spike: 3.0 is not valid", 2),
        ("train --base bert --data reviews.jsonl --on-nan hope", "--on-nan: 'hope' is not valid", 2),
    ],
)
def test_what_cannot_resume(refused, line, words, code):
    refused(line, [words], code)
