"""`petrun sweep`: its runs are those that `petrun train` would make, and they share what they can."""

import json
import shutil

import pytest

from petrun.graph.compilations import compilations

COMMON = "--base bert --data reviews.jsonl --eval-data reviews.jsonl --rank 2 --batch-size 4 --steps 4 "
SWEEP = f"sweep {COMMON}--over lr=1e-3,1e30,3e-3 --over weight-decay=0,0.1 --out s "


def delta(folder):
    return (folder / "lora.ckpt").read_bytes()


@pytest.fixture
def swept(place, petrun):
    done = petrun(SWEEP)
    assert done.code == 0, done.err
    return place, done


def test_each_run_has_the_bits_that_it_would_have_alone(swept, petrun):
    """A run that diverges stands in between. The last settings are those that differ in every number from the first."""
    place, done = swept
    assert "6 runs, 24 steps in all, 1 training graph" in done.out
    content = json.loads((place / "s" / "sweep.json").read_text())
    outcomes = {run["name"]: run["outcome"] for run in content["runs"]}
    assert [name for name, outcome in outcomes.items() if outcome != "finished"] == [
        "lr=1e30,weight-decay=0",
        "lr=1e30,weight-decay=0.1",
    ]
    assert "not finite" in outcomes["lr=1e30,weight-decay=0"]
    for name, flags in (
        ("lr=1e-3,weight-decay=0", "--lr 1e-3 --weight-decay 0"),
        ("lr=3e-3,weight-decay=0.1", "--lr 3e-3 --weight-decay 0.1"),
    ):
        shutil.rmtree(place / "alone", ignore_errors=True)
        assert petrun(f"train {COMMON}{flags} --out alone").code == 0
        assert delta(place / "alone") == delta(place / "s" / name), name
        log = [json.loads(line) for line in (place / "alone" / "log.jsonl").read_text().splitlines()]
        mine = [json.loads(line) for line in (place / "s" / name / "log.jsonl").read_text().splitlines()]
        assert [r.get("evaluation", r.get("loss")) for r in log] == [r.get("evaluation", r.get("loss")) for r in mine]
    page = (place / "s" / "sweep.html").read_text()
    assert "lr=3e-3,weight-decay=0.1" in page and "1e30" not in page


def test_the_same_command_goes_on_with_a_sweep(swept, petrun):
    """One run lost its results, as if it had been killed after its last state, and another all it had; the finished ones stay."""
    place, _ = swept
    lost, gone = place / "s" / "lr=1e-3,weight-decay=0.1", place / "s" / "lr=3e-3,weight-decay=0"
    before = {folder: delta(folder) for folder in (lost, gone)}
    kept = (place / "s" / "lr=1e-3,weight-decay=0" / "results.json").stat().st_mtime_ns
    (lost / "results.json").unlink()
    shutil.rmtree(gone)
    done = petrun(SWEEP)
    assert done.code == 0, done.err
    assert {folder: delta(folder) for folder in before} == before
    assert (place / "s" / "lr=1e-3,weight-decay=0" / "results.json").stat().st_mtime_ns == kept
    # Finished runs of other settings are not taken for this sweep's.
    done = petrun(SWEEP.replace("--steps 4", "--steps 3"))
    assert done.code == 2 and "was begun with other settings" in done.err, done.err


@pytest.mark.all_only
def test_halving_leaves_the_worst_and_the_rest_keep_their_bits(place, petrun):
    """The run that comes to its end was paused twice; a second start takes what was scored."""
    line = f"sweep {COMMON}--over lr=1e-5,3e-3,2e-3,1e30 --halving 2 --out s "
    done = petrun(line)
    assert done.code == 0, done.err
    assert "4 runs, 8 steps in all, 1 training graph" in done.out
    outcomes = {run["name"]: run["outcome"] for run in json.loads((place / "s" / "sweep.json").read_text())["runs"]}
    (best,) = [name for name, outcome in outcomes.items() if outcome == "finished"]
    assert sorted(outcomes.values())[:3] == ["finished", "left after step 1", "left after step 2"]
    assert best != "lr=1e30" and outcomes["lr=1e30"].startswith("the model's logits are NaN")
    assert petrun(f"train {COMMON}--lr {best[3:]} --out alone").code == 0
    assert delta(place / "alone") == delta(place / "s" / best)
    (place / "s" / best / "results.json").unlink()
    assert petrun(line).code == 0
    assert delta(place / "alone") == delta(place / "s" / best)


@pytest.mark.all_only
def test_runs_of_other_shapes_have_graphs_of_their_own(place, petrun):
    with compilations() as count:
        done = petrun(
            "sweep --base bert --data reviews.jsonl --batch-size 4 --steps 1 --over rank=2,3 --over lr=1e-3,2e-3 --out s"
        )
    assert done.code == 0, done.err
    assert "4 runs, 4 steps in all, 2 training graphs" in done.out
    # A step each, and none for a run that has the graph of the one before.
    assert count.graphs == 2


def test_a_dry_run_checks_every_run_and_writes_nothing(place, petrun, refused):
    done = petrun("sweep --base bert --data reviews.jsonl --steps 2 --over lr=1e-3,2e-3 --out s --dry-run")
    assert done.code == 0 and "s/lr=2e-3" in done.out, done.err
    assert not (place / "s").exists()
    refused(
        "sweep --base bert --data reviews.jsonl --steps 2 --over lr=1e-3,-1 --out s",
        ["optim.lr: -1 is not valid"],
        code=2,
    )
    refused(
        "sweep --base bert --data reviews.jsonl --steps 2 --over optim.rl=1,2 --out s", ["unknown key optim.rl"], code=2
    )
    refused(
        "sweep --base bert --data reviews.jsonl --steps 2 --over lr=1e-3,0.001 --out s", ["are the same run"], code=2
    )
    refused("sweep --base bert --data reviews.jsonl --steps 2 --out s", ["at least one --over"], code=2)
    few = "sweep --base bert --data reviews.jsonl --steps 2 --over lr=1e-3,2e-3 --halving 3 --out s"
    refused(few, ["--halving 3: has no effect on 2 runs"], code=2)


@pytest.mark.all_only
def test_where_every_run_diverges_the_sweep_fails(place, petrun):
    done = petrun("sweep --base bert --data reviews.jsonl --batch-size 4 --steps 3 --over lr=1e30,1e31 --out s")
    assert done.code == 1 and "no run of the sweep came to its end" in done.err


def test_a_sweep_is_one_process(place, petrun, monkeypatch):
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    done = petrun("sweep --base bert --data reviews.jsonl --over lr=1e-3,2e-3")
    assert done.code == 2 and "in one process" in done.err
