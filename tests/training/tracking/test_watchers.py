"""The trackers that --tracker names write files of their own, which are read here without their libraries; callbacks end a run."""

import json
import sqlite3
import struct

import pytest

import petrun
from petrun.config.schema import RunConfig, TrainConfig
from petrun.errors import SetupError
from petrun.training.tracking import watchers
from petrun.training.tracking.watchers import TRACKERS, require_tracker
from tests.conftest import ROOT


def test_the_table_the_setting_and_the_extras_name_the_same():
    from typing import get_args

    asked = TrainConfig.model_fields["tracker"].annotation
    assert {*get_args(get_args(asked)[0])} == TRACKERS.keys()
    extras = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{kind.extra} = [" in extras for kind in TRACKERS.values())


@pytest.mark.parametrize("name", TRACKERS)
def test_a_package_that_is_not_installed_is_named_before_anything_is_loaded(name, monkeypatch):
    monkeypatch.setattr(watchers.importlib.util, "find_spec", lambda package: None)
    config = RunConfig.model_construct(train=TrainConfig(tracker=name))
    with pytest.raises(SetupError, match=f"--tracker {name}: {TRACKERS[name].package} is not installed") as refused:
        require_tracker(config)
    assert refused.value.hint == f"pip install 'petrun[{name}]'"


def records(file):
    """The records of a TensorFlow record file: length, its checksum, content, its checksum."""
    content, at = file.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        yield content[at + 12 : at + 12 + length]
        at += 12 + length + 4


def test_tensorboard_gets_every_step_and_evaluation(place, petrun_command):
    event = pytest.importorskip("tensorboardX.proto.event_pb2").Event
    flags = "--base gpt2 --data orders.jsonl --eval-data orders.jsonl --rank 2 --steps 3 --batch-size 4"
    done = petrun_command(f"train {flags} --tracker tensorboard --out run")
    assert done.code == 0, done.err
    (file,) = (place / "run" / "tensorboard").iterdir()
    found = {}
    for record in records(file):
        one = event.FromString(record)
        found |= {(value.tag, one.step): value.simple_value for value in one.summary.value}
    log = [json.loads(line) for line in (place / "run" / "log.jsonl").read_text().splitlines()]
    for each in log:
        for name, value in each.get("evaluation", {"loss": each.get("loss")}).items():
            kind = "eval" if "evaluation" in each else "train"
            assert found[f"{kind}/{name}", each["step"]] == pytest.approx(value, rel=1e-6)


@pytest.mark.all_only
@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_every_step(place, petrun_command):
    pytest.importorskip("mlflow")
    done = petrun_command("train --base gpt2 --data orders.jsonl --rank 2 --steps 3 --tracker mlflow --out run")
    assert done.code == 0 and "goes on without it" not in done.out, done.out
    with sqlite3.connect(place / "run" / "mlflow.db") as store:
        found = dict(store.execute("select step, value from metrics where key = 'train/loss'").fetchall())
        (rank,) = store.execute("select value from params where key = 'delta.rank'").fetchone()
    assert rank == "2" and list(found.values()) == pytest.approx(petrun.read_run("run").losses)


def test_a_tracker_that_fails_does_not_end_the_run(place, petrun_command, monkeypatch):
    def refuse(run):
        raise OSError("no route to host")

    monkeypatch.setitem(watchers.TRACKERS, "wandb", watchers.TrackerKind(package="json", extra="wandb", open=refuse))
    done = petrun_command("train --base gpt2 --data orders.jsonl --rank 2 --steps 1 --tracker wandb --out run")
    assert done.code == 0 and "tracker wandb: OSError: no route to host; the run goes on without it" in done.out


def test_a_callback_gets_each_record_and_ends_the_run(place):
    seen = []

    def stop_at_two(record):
        seen.append(record)
        return record["step"] == 2

    run = petrun.train(base="gpt2", data="orders.jsonl", rank=2, steps=5, callback=stop_at_two, quiet=True)
    assert [each["step"] for each in seen] == [1, 2] and tuple(seen) == run.steps and run.finished
    assert run.results["stopped"] == "the program's callback ended it at step 2"


@pytest.mark.all_only
def test_what_a_callback_raises_ends_the_run_and_reaches_the_program(place):
    def prune(record):
        raise LookupError("pruned")

    with pytest.raises(LookupError, match="pruned"):
        petrun.train(base="gpt2", data="orders.jsonl", rank=2, steps=5, callback=prune, out="run", quiet=True)
    assert len(petrun.read_run("run").steps) == 1
