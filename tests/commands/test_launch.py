"""What is settled before any rank starts: where its logs lie, and what `--resume` names. No rank is started here."""

import json
import socket
from pathlib import Path

import pytest

from petrun.assets import default_recipe
from petrun.cluster.launch import JobOutput
from petrun.commands import launch
from petrun.config.commands.train import TrainSettings
from petrun.config.load import dump_run, load_run_config
from petrun.errors import ConfigError, SetupError
from petrun.training import run_folder


@pytest.fixture
def jobs(monkeypatch, tmp_path):
    """The jobs that would have been started; each leaves a log, and ends well."""
    started = []

    def start(job, output):
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
    settings = TrainSettings(flags=flags or {}, resume=resume, dry_run=dry_run, cards=2, **asked)
    return launch.run(settings, lambda added: ["train", *added], JobOutput(out=print, err=print))


def test_a_job_that_failed_before_its_first_step_leaves_no_run(jobs, capsys, monkeypatch):
    """Its logs are kept, under a name that is no run's; a folder that the user named, or one with more in it, stays."""
    code = [1]
    begun = launch.launch
    monkeypatch.setattr(launch, "launch", lambda job, output: begun(job, output) or code[0])
    assert run() == 1 and run() == 1
    assert sorted(entry.name for entry in Path("runs").iterdir()) == ["lora-1.failed", "lora-1.failed-2"]
    assert Path("runs/lora-1.failed-2/logs/rank_0.log").read_text() == "step 1"
    assert "its logs lie in runs/lora-1.failed-2 now" in capsys.readouterr().out
    assert run(flags={"out.dir": ("--out", "named")}) == 1 and Path("named/logs").is_dir()
    code[0] = 0
    assert run() == 0 and Path("runs/lora-1/logs").is_dir()
    Path("runs/lora-1/run.yaml").write_text("")
    code[0] = 1
    monkeypatch.setattr(run_folder, "next_free", lambda algo: Path("runs/lora-1"))
    Path("runs/lora-1/state").mkdir()
    assert run_folder.rename_failed(Path("runs/lora-1")) is None


def test_a_port_that_is_taken_is_found_before_anything_is_written(jobs, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SetupError, match=f"--master-port {port}: in use on 127.0.0.1"):
            run(master_port=port)
    with pytest.raises(SetupError, match=r"--master-addr a\.\.b: no such host"):
        run(hosts=2, host_rank=0, master_addr="a..b", flags={"out.dir": ("--out", "named")})
    assert not jobs and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("zero", 1, "are not for the cpu"), ("recompute", "full", "save memory of an Ascend card")],
)
def test_what_only_cards_do_is_refused_before_any_rank_starts(jobs, tmp_path, key, value, words):
    with pytest.raises(ConfigError, match=words):
        run(flags={f"parallel.{key}": ("--parallel", value)})
    assert not jobs and not list(tmp_path.iterdir())


def test_a_run_of_several_ranks_is_gone_on_with_by_as_many(tmp_path, petrun):
    (tmp_path / "state").mkdir()
    (tmp_path / "run.yaml").write_text("algo: lora\n")
    noted = {"parallel.dp": 2, "parallel.tp": 4, "parallel.pp": 1}
    (tmp_path / "state" / "identity.json").write_text(json.dumps(noted))
    for command in ("resume", "train --resume"):
        done = petrun(f"{command} {tmp_path}")
        assert done.code == 2 and "was begun by 8 ranks, and this is one process" in done.err
        assert f"petrun {command} {tmp_path} --cards 8 " in done.err
    done = petrun(f"resume {tmp_path} --verify")
    assert done.code == 2 and "was begun by 8 ranks, and one process replays" in done.err
    assert (
        "--verify: resumes in this process alone, without --cards"
        in petrun(f"resume {tmp_path} --verify --cards 8").err
    )


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
    # A finished run's run.yaml holds every setting.
    resolved = load_run_config("begun/run.yaml", {}, [], embedded=default_recipe())
    Path("begun/run.yaml").write_text(dump_run(resolved, "1"))
    Path("begun/results.json").write_text("{}")
    assert run(resume="begun") == 0 and "begun is finished" in capsys.readouterr().out
    assert len(jobs) == 1, "no rank starts where all is done"
