"""A run that cannot fit is refused before anything is built, with settings that fit."""

import re

import pytest

from petrun.errors import ConfigError
from petrun.training.setup import memory_check
from petrun.training.setup.memory_check import ERROR, too_much
from tests.parallel.memory.test_plan import CARD, MIB, base, memory  # noqa: F401 (a fixture)
from tests.tiny import REVIEWS, write_base, write_rows
from tests.training.test_pipeline import petrun


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return [
        "train",
        "--base",
        write_base(tmp_path / "base", "bert"),
        "--data",
        write_rows(tmp_path / "rows.jsonl", REVIEWS),
    ]


def limited(monkeypatch, count):
    monkeypatch.setattr(memory_check, "available_bytes", lambda: count)


def test_the_plan_is_printed_and_a_dry_run_writes_nothing(job, tmp_path, capsys):
    petrun(*job, "--dry-run")
    shown = capsys.readouterr().out
    assert re.search(r"memory +[\d.]+ MiB in the (update|backward pass): .*process", shown)
    assert "nothing was written. A run writes into runs/lora-N: run.yaml" in shown
    assert not (tmp_path / "runs").exists()


def test_what_cannot_fit_is_refused_with_a_batch_that_fits(job, monkeypatch, capsys):
    petrun(*job, "--batch-size", 8, "--dry-run")
    needed = re.search(r"memory +([\d.]+) MiB", capsys.readouterr().out)
    # Less than the process alone: no batch fits.
    limited(monkeypatch, int(float(needed[1]) * MIB * 0.5))
    with pytest.raises(ConfigError, match=r"the run needs about .* on each rank there are") as refused:
        petrun(*job, "--batch-size", 8, "--dry-run")
    assert "No batch, recompute or layout fits" in refused.value.hint and "--no-memory-check" in refused.value.hint
    petrun(*job, "--batch-size", 8, "--dry-run", "--no-memory-check")


def test_a_plan_that_may_be_too_high_is_not_refused(base):  # noqa: F811
    plan = memory(base, "lora", 4, 256).plan()
    assert not too_much(plan, int(plan.total * (1 - ERROR)) + 1)
    assert too_much(plan, int(plan.total * (1 - ERROR)) - 1)
