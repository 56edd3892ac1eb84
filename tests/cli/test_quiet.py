"""--quiet may stand anywhere on the line; what belongs to another program's line, or to MindPet's own --quiet, stays."""

import pytest

from petrun import console
from petrun.cli.app import _own_switches


@pytest.fixture(autouse=True)
def as_before():
    yield
    console.set_results_only(False)


@pytest.mark.parametrize(
    ("line", "left", "quiet"),
    [
        ("--quiet eval --debug --delta d", "eval --delta d", True),
        ("eval --delta d --quiet", "eval --delta d", True),
        ("eval --delta d", "eval --delta d", False),
        ("mindpet finetune --quiet", "mindpet finetune --quiet", False),
        ("delta scale d --out o -- -1", "delta scale d --out o -- -1", False),
        ("job --to shell -- --quiet", "job --to shell -- --quiet", False),
    ],
)
def test_the_switches_are_taken_out_of_the_line(line, left, quiet):
    assert _own_switches(line.split()) == left.split()
    assert console._results_only is quiet


def test_a_command_of_files_says_nothing_and_one_that_answers_does(petrun, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    done = petrun(f"data convert {tmp_path}/rows.jsonl --to messages --out {tmp_path}/m.jsonl --quiet")
    assert (done.code, done.out) == (0, "") and (tmp_path / "m.jsonl").exists()
    assert "rank" in petrun("algorithms lora --quiet").out


def test_a_job_keeps_them_for_its_ranks(petrun, tmp_path):
    done = petrun(
        f"job --to shell --cards 2 --out {tmp_path}/job.sh -- --algo lora --rank 8 --out {tmp_path}/x --quiet --debug"
    )
    assert done.code == 0, done.err
    assert "--quiet --debug" in (tmp_path / "job.sh").read_text()
