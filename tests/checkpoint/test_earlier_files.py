"""A run folder and deltas that an earlier petrun wrote: today's commands read them, and get the scores that are stored in them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from petrun.checkpoint.delta import read_delta

EARLIER = Path(__file__).parent / "earlier_files"
DELTAS = ["bert-lora", "gpt2-adalora.ckpt", "gpt2-ia3.ckpt", "gpt2-prefix.ckpt"]


@pytest.fixture
def earlier(place):
    """The folder of the tiny bases and their data, with the earlier files beside them."""
    for path in EARLIER.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, place / f"old-{path.name}")
    return place


def success(done):
    assert done.code == 0, done.err
    return done.out


@pytest.mark.parametrize("name", DELTAS)
def test_eval_gives_the_stored_scores(earlier, petrun, name):
    rows = "reviews" if name.startswith("bert") else "orders"
    base = name.partition("-")[0]
    success(petrun(f"eval --base {base} --delta old-{name} --data {rows}.jsonl --out scores.json"))
    found = json.loads((earlier / "scores.json").read_text())["delta"]
    stored = read_delta(earlier / f"old-{name}").manifest.metrics
    assert len(stored) >= 3
    assert {key: found[key] for key in stored} == pytest.approx(stored, rel=1e-5)


@pytest.mark.parametrize("name", DELTAS[:3])
def test_the_merged_model_has_the_stored_scores(earlier, petrun, name):
    base, rows = name.partition("-")[0], "reviews" if name.startswith("bert") else "orders"
    success(petrun(f"merge --base {base} --delta old-{name} --out merged"))
    success(petrun(f"eval --base merged --data {rows}.jsonl --out scores.json"))
    found = json.loads((earlier / "scores.json").read_text())["base"]
    stored = read_delta(earlier / f"old-{name}").manifest.metrics
    assert {key: found[key] for key in stored} == pytest.approx(stored, rel=1e-5)


@pytest.mark.parametrize("name", DELTAS)
def test_info_shows_what_is_stored(earlier, petrun, name):
    told = json.loads(success(petrun(f"delta info old-{name} --json")))
    manifest = read_delta(earlier / f"old-{name}").manifest
    assert told["algorithm"] == manifest.algo and told["step"] == manifest.step
    assert told["digest"] == manifest.digest and told["metrics"] == manifest.metrics
    assert sum(each["norm"] ** 2 for each in told["tensors"]) > 0


def test_a_run_that_was_cut_off_resumes(earlier, petrun):
    """Without its end the run has the state of step 2 left: resumed, it ends with the weights and scores that it ended with then."""
    run = earlier / "old-bert-lora"
    ended, scores = dict(read_delta(run / "lora.ckpt").tensors), json.loads((run / "results.json").read_text())
    for path in (run / "lora.ckpt", run / "results.json", *run.glob("state/step-00000004.*")):
        path.unlink()
    settings = run / "run.yaml"
    settings.write_text(settings.read_text().replace("started_in: /home/user", f"started_in: {earlier}"))
    run.rename(earlier / "again")
    settings = earlier / "again" / "run.yaml"
    settings.write_text(settings.read_text().replace("bert-lora", "again"))
    success(petrun("resume again"))
    found = json.loads((earlier / "again" / "results.json").read_text())
    for name, values in read_delta(earlier / "again" / "lora.ckpt").tensors.items():
        # BERT's last layer now computes one position alone, in another order.
        np.testing.assert_allclose(values, ended[name], rtol=1e-5, atol=1e-7)
    assert found["steps"] == 4 and found["loss"] == pytest.approx(scores["loss"], rel=1e-6)
    assert found["base"] == pytest.approx(scores["base"], rel=1e-6)
