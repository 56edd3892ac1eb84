"""`petrun train --cards 2` itself: killed, stopped and begun again, it ends as if nothing had happened."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from socket import gethostname

import pytest

from petrun.checkpoint.delta import read_delta
from tests.conftest import ROOT
from tests.parallel.processes import TaggedProcesses, wait_for
from tests.tiny import write_base, write_rows

STEPS = 60
"""Each takes some hundredths of a second, once it is compiled: a signal finds the job between the first and the last."""
TRAIN = (
    f"train --base llama --data rows.jsonl --dropout 0.3 --lr 0.01 --steps {STEPS} --batch-size 2 --save-every 1 --keep 20 "
    "--set data.cache=false --set data.buckets=1 --set eval.samples=0"
).split()


class Jobs:
    """Jobs of petrun in one folder with a tiny base, whose processes are found again."""

    def __init__(self, folder):
        self.folder, self.processes = folder, TaggedProcesses()
        self.environment = {
            **self.processes.environment,
            "PYTHONPATH": str(ROOT),
            "GLOG_v": "4",
            "XDG_CACHE_HOME": str(folder / "cache"),
            "MS_RETRY_INTERVAL_LOWER": "1",
            "MS_RETRY_INTERVAL_UPPER": "1",
        }
        write_base(folder / "llama", "llama", num_hidden_layers=1)
        write_rows(folder / "rows.jsonl", [{"prompt": "a" * (n % 4 + 1), "completion": "b" * n} for n in (3, 1, 4, 2)])

    def start(self, *flags, before=(sys.executable, "-m", "petrun"), **variables):
        return subprocess.Popen(
            [*before, *TRAIN, *flags],
            env={**self.environment, **variables},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, process, code=0):
        """What it printed, and said of the job; no process of it is left."""
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, out[-2000:] + err
        assert self.processes.all_end(), self.processes.alive()
        return out, err

    def wait_for_step(self, run, step, process):
        """Until the state of this step is there."""
        state = self.folder / run / "state" / f"step-{step:08d}.json"
        assert wait_for(lambda: state.exists() or process.poll() is not None, 240) and process.poll() is None, (
            process.communicate()
        )

    def rank(self, number):
        """The process of this rank, None before it is there."""
        return next((pid for pid in self.processes.alive() if f"RANK_ID={number}".encode() in _environment(pid)), None)

    def steps(self, run):
        lines = (self.folder / run / "log.jsonl").read_text().splitlines()
        return [(record["step"], record["loss"]) for record in map(json.loads, lines)]

    def hold(self, run, other):
        """The same losses and the same delta, bit for bit."""
        assert self.steps(run) == self.steps(other)
        assert [step for step, _ in self.steps(run)] == list(range(1, STEPS + 1))
        left, right = (read_delta(self.folder / name / "lora.ckpt").tensors for name in (run, other))
        assert {name: left[name].tobytes() for name in left} == {name: right[name].tobytes() for name in right}


def _environment(pid):
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    found = Jobs(tmp_path_factory.mktemp("jobs"))
    yield found
    found.processes.kill()


@pytest.fixture(scope="module")
def whole(jobs):
    """A run that nothing disturbs."""
    out, _ = jobs.end(jobs.start("--cards", "2", "--out", "whole"))
    assert "batches of 4 (2 on each of 2 ranks)" in out
    return "whole"


@pytest.mark.all_only
def test_a_killed_rank_is_named_and_the_job_begins_again_as_if_nothing_had_happened(jobs, whole):
    process = jobs.start("--cards", "2", "--out", "killed", "--max-restarts", "1")
    logs = jobs.folder / "killed" / "logs"
    assert wait_for((logs / "attempt-1" / "rank_1.log").exists, 120)
    rank = wait_for(lambda: jobs.rank(1))
    jobs.wait_for_step("killed", 2, process)
    os.kill(rank, signal.SIGKILL)
    # MindSpore itself misses a rank after 30 seconds.
    assert wait_for((logs / "attempt-2").exists, 25)
    out, err = jobs.end(process)
    assert "error: rank 1 was ended by SIGKILL" in err
    assert "its log: killed/logs/attempt-1/rank_1.log" in err and "attempt 2 of 2: ranks 0 to 1 of 2" in err
    after = re.search(r"killed holds a run that did not finish: it resumes after step (\d+)", out)
    assert after and 2 <= int(after[1]) < STEPS
    jobs.hold("killed", whole)


@pytest.mark.all_only
def test_a_job_that_is_told_to_stop_saves_and_goes_on_by_resume(jobs, whole):
    process = jobs.start("--cards", "2", "--out", "stopped")
    jobs.wait_for_step("stopped", 2, process)
    process.terminate()
    out, err = jobs.end(process, 143)
    assert "SIGTERM: every rank was told to stop" in err and "to resume: petrun resume stopped --cards 2" in out
    last = len(jobs.steps("stopped"))
    assert last < STEPS
    # In one process it does not go on, and says how it does.
    resume = [sys.executable, "-m", "petrun", "resume", "stopped"]
    settings = {"env": jobs.environment, "cwd": jobs.folder, "capture_output": True, "text": True, "timeout": 300}
    assert "petrun resume stopped --cards 2 " in subprocess.run(resume, **settings).stderr
    done = subprocess.run([*resume, "--cards", "2", "--allow", "data.seq_len"], **settings)
    assert done.returncode == 0, done.stderr
    assert f"it resumes after step {last}" in done.stdout and "[INFO]" not in done.stdout
    jobs.hold("stopped", whole)


@pytest.mark.all_only
def test_a_dry_run_writes_nothing(jobs):
    out, _ = jobs.end(jobs.start("--cards", "2", "--out", "dry", "--dry-run"))
    assert "batches of 4 (2 on each of 2 ranks)" in out and not (jobs.folder / "dry").exists()


@pytest.mark.all_only
def test_msrun_of_the_users_own(jobs, whole):
    bin = Path(sys.executable).parent
    msrun = [str(bin / "msrun"), "--worker_num=2", "--local_worker_num=2", "--join=True", "--log_dir=msrun"]
    path = f"{bin}{os.pathsep}{os.environ['PATH']}"
    jobs.end(jobs.start("--out", "by-msrun", before=[*msrun, str(bin / "petrun")], PATH=path))
    jobs.hold("by-msrun", whole)


@pytest.fixture
def networks():
    """Two network namespaces that see each other as 10.0.0.1 and 10.0.0.2: as much of two hosts as one machine has."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root and the program ip")
    mark = uuid.uuid4().hex[:6]
    names = [f"petrun-{mark}-{host}" for host in range(2)]
    made = []
    try:
        for name in names:
            if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
                pytest.skip("this machine makes no network namespaces")
            made.append(name)
        ends = [f"pt{mark}{host}" for host in range(2)]
        inside = ["ip", "-n"]
        lines = [
            [*inside, names[0], "link", "add", ends[0], "type", "veth", "peer", "name", ends[1], "netns", names[1]]
        ]
        for host, (name, end) in enumerate(zip(names, ends, strict=True)):
            lines.append([*inside, name, "addr", "add", f"10.0.0.{host + 1}/24", "dev", end])
            lines += [[*inside, name, "link", "set", device, "up"] for device in (end, "lo")]
        for line in lines:
            subprocess.run(line, check=True, capture_output=True)
        yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=True)


def start_hosts(jobs, networks, out, *more):
    flags = ["--out", out, "--cards", "2", "--hosts", "2", "--master-addr", "10.0.0.1", *more, "--host-rank"]
    return [
        jobs.start(*flags, str(host), before=["ip", "netns", "exec", name, sys.executable, "-m", "petrun"])
        for host, name in enumerate(networks)
    ]


@pytest.mark.all_only
def test_two_hosts(jobs, whole, networks):
    first, second = [jobs.end(process) for process in start_hosts(jobs, networks, "hosts")]
    assert "rank 0 of 2; logs in hosts/logs/host-0/attempt-1" in first[1] and "saved hosts/lora.ckpt" in first[0]
    assert "rank 1 of 2; logs in hosts/logs/host-1/attempt-1" in second[1] and "step" not in second[0]
    jobs.hold("hosts", whole)


@pytest.mark.all_only
def test_a_rank_killed_on_one_of_two_hosts_ends_both_and_both_begin_again(jobs, whole, networks):
    processes = start_hosts(jobs, networks, "lost", "--max-restarts", "1")
    logs = jobs.folder / "lost" / "logs"
    jobs.wait_for_step("lost", 2, processes[0])
    os.kill(wait_for(lambda: jobs.rank(1)), signal.SIGKILL)
    # Both hosts know at once: MindSpore itself misses a rank after 30 seconds.
    assert wait_for((logs / "host-0" / "attempt-2").exists, 25) and wait_for((logs / "host-1" / "attempt-2").exists, 25)
    first, second = [jobs.end(process) for process in processes]
    assert "error: rank 1 was ended by SIGKILL" in second[1] and "lost/logs/host-1/attempt-1/rank_1.log" in second[1]
    assert (
        f"error: rank 1 was ended by SIGKILL (the kernel does that where memory runs out) on host 1 ({gethostname()})"
        in first[1]
    )
    assert "attempt 2 of 2: rank 0 of 2" in first[1]
    assert re.search(r"lost holds a run that did not finish: it resumes after step \d+", first[0])
    jobs.hold("lost", whole)


@pytest.mark.all_only
def test_a_network_that_is_cut_while_two_hosts_train_ends_both(jobs, networks):
    """Nothing comes any more and no connection ends; the ranks wait inside a collective."""
    processes = start_hosts(jobs, networks, "cut", "--grace", "10", "--steps", "100000", "--save-every", "100000")
    rank_0 = jobs.folder / "cut" / "logs" / "host-0" / "attempt-1" / "rank_0.log"
    assert wait_for(lambda: rank_0.exists() and "step 1/" in rank_0.read_text(), 240)
    (end,) = [line.split(":")[1].strip().split("@")[0] for line in _links(networks[1]) if ": pt" in line]
    subprocess.run(["ip", "-n", networks[1], "link", "set", end, "down"], check=True)
    first, second = [jobs.end(process, 1) for process in processes]
    name = gethostname()
    assert (
        f"error: host 1 ({name}) was lost after" in first[1] and f"error: host 0 ({name}) was lost after" in second[1]
    )


def _links(network):
    return subprocess.run(["ip", "-n", network, "link"], check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.all_only
def test_preflight_of_two_hosts_ends_with_a_sum_and_leaves_nothing(jobs, networks):
    first, second = [jobs.end(process) for process in start_hosts(jobs, networks, "looked", "--preflight")]
    names = ["ports", "cards", "disk", "versions", "settings", "files", "clock", "addresses", "--out", "all-reduce"]
    for (out, _), expected in ((first, names), (second, names[:-1])):
        assert [line.split()[:2] for line in out.splitlines() if line.startswith("ok ")] == [
            ["ok", name] for name in expected
        ]
    assert "each reaches each: host 0 10.0.0.1, host 1 10.0.0.2" in first[0] and not (jobs.folder / "looked").exists()
