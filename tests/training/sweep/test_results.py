"""The table of a sweep, and the file that marks its folder."""

import json

import pytest

from petrun.errors import ConfigError
from petrun.evaluate.metrics import METRICS
from petrun.training.sweep.members import members_of, parse_axes
from petrun.training.sweep.results import FILE, MemberResult, ranked, require_same_sweep, results_text, write_results

AXES = parse_axes(["lr=1e-4,3e-4,1"], {}, ())


def result(name, outcome="finished", **scores):
    return MemberResult(name=name, outcome=outcome, scores=scores, train_loss=scores.get("loss"), seconds=1.0)


def test_the_best_run_stands_first_and_one_that_ended_early_last():
    found = [
        result("a", accuracy=0.5, loss=1.0),
        result("b", "step 2: the loss is not finite"),
        result("c", accuracy=0.7, loss=2.0),
    ]
    assert [one.name for one in ranked(found, METRICS["accuracy"])] == ["c", "a", "b"]
    assert [one.name for one in ranked(found, METRICS["loss"])] == ["a", "c", "b"]
    lines = results_text(found, METRICS["accuracy"]).splitlines()
    assert lines[0].split() == ["run", "accuracy", "loss", "train", "loss", "seconds", "outcome"]
    assert lines[1].split()[:2] == ["c", "0.7000"]
    assert lines[3].endswith("step 2: the loss is not finite")


def test_without_evaluation_the_training_loss_decides():
    found = [MemberResult(name=n, outcome="finished", train_loss=v) for n, v in (("a", 2.0), ("b", 1.0))]
    assert [one.name for one in ranked(found, METRICS["loss"])] == ["b", "a"]


def test_the_file_holds_every_run_and_names_the_sweep(tmp_path):
    folder = tmp_path / "s"
    require_same_sweep(folder, AXES)
    folder.mkdir()
    require_same_sweep(folder, AXES)
    write_results(folder, AXES, members_of(AXES), [result("lr=1e-4", loss=1.0)])
    content = json.loads((folder / FILE).read_text())
    assert content["over"] == {"lr": ["1e-4", "3e-4", "1"]}
    assert [run["outcome"] for run in content["runs"]] == ["finished", "waiting", "waiting"]
    require_same_sweep(folder, AXES)
    with pytest.raises(ConfigError, match="over lr=1e-4,3e-4,1, and this one is over lr=1,2"):
        require_same_sweep(folder, parse_axes(["lr=1,2"], {}, ()))
    (folder / FILE).write_text("{")
    with pytest.raises(ConfigError, match="does not read"):
        require_same_sweep(folder, AXES)


def test_a_folder_with_something_else_is_no_sweep(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no sweep"):
        require_same_sweep(tmp_path, AXES)
