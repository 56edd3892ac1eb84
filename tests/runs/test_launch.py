"""What is settled before any rank starts: where its logs lie, and what `--resume` names. No rank is started here."""

from pathlib import Path

import pytest

from petrun.errors import ConfigError
from petrun.parallel.launch import Voice
from petrun.runs import launch


@pytest.fixture
def jobs(monkeypatch, tmp_path):
    """The jobs that would have been started; each leaves a log, and ends well."""
    started = []

    def start(job, voice):
        started.append(job)
        job.logs.mkdir(parents=True, exist_ok=True)
        (job.logs / "rank_0.log").write_text("step 1")
        return 0

    monkeypatch.setattr(launch, "launch", start)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return started


def run(resume=None, dry_run=False, flags=None, **asked):
    command = launch.Command(None, flags or {}, [], lambda added: ["train", *added], resume=resume, dry_run=dry_run)
    return launch.run(command, launch.Asked(cards=2, **asked), Voice(print, print))


def unfinished():
    """A run folder with the logs of an earlier job."""
    earlier = Path("begun/logs/attempt-1/rank_0.log")
    earlier.parent.mkdir(parents=True)
    earlier.write_text("step 1")
    Path("begun/run.yaml").write_text("algo: lora\n")
    return earlier


def test_a_dry_run_of_an_unfinished_run_leaves_its_logs(jobs):
    earlier = unfinished()
    assert run(resume="begun", dry_run=True) == 0
    assert earlier.read_text() == "step 1" and not list(Path().glob("petrun-logs-*"))
    assert not jobs[0].logs.exists() and Path("begun") not in jobs[0].logs.parents
    assert run(dry_run=True, log_dir="kept") == 0 and Path("kept/rank_0.log").exists()


def test_resume(jobs, capsys):
    unfinished()
    assert run(resume="begun") == 0 and jobs[0].logs == Path("begun/logs")
    with pytest.raises(ConfigError, match="--out other contradicts --resume begun"):
        run(resume="begun", flags={"out.dir": ("--out", "other")})
    with pytest.raises(ConfigError, match="nothing does not exist"):
        run(resume="nothing")
    Path("begun/results.json").write_text("{}")
    assert run(resume="begun") == 0 and "begun is finished" in capsys.readouterr().out
    assert len(jobs) == 1, "no rank starts where all is done"
