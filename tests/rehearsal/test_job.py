"""What the processes of a rehearsal are told, and which ranks are chosen."""

import pytest

from petrun.errors import ConfigError
from petrun.parallel.layout import Layout
from petrun.rehearsal.job import RankJob, choose_ranks
from petrun.rehearsal.shapes import BatchShapes


def test_a_rank_reads_the_job_that_was_written(tmp_path):
    job = RankJob(
        recipe=None,
        flags={"data.path": ("--data", ["a.jsonl"]), "parallel.auto": ("--parallel", False)},
        sets=["train.steps=3"],
        level=1,
        writes_strategy=True,
        shapes=BatchShapes(
            batch=2, tokens=0, task="classify", reason="6 rows", classes=3, arrays={"x": ("float32", (4, 5))}
        ),
    )
    job.write(tmp_path / "job.json")
    assert RankJob.read(tmp_path / "job.json") == job


def test_the_first_and_the_last_rank_differ_in_every_coordinate():
    layout = Layout(dp=2, tp=2, pp=2, micro_batches=2)
    assert choose_ranks(None, layout, every_stage=False) == [0, 7]
    assert choose_ranks(None, layout, every_stage=True) == [0, 4, 7]
    assert choose_ranks([5, 1, 5], layout, every_stage=True) == [1, 5]
    with pytest.raises(ConfigError, match=r"--ranks 8: the job has ranks 0 to 7"):
        choose_ranks([8], layout, every_stage=False)
    with pytest.raises(ConfigError, match="--ranks has none of stage 1"):
        choose_ranks([1], layout, every_stage=True)
