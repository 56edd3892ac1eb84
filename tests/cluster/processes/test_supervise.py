"""Supervision of a job, shown on ranks that are plain Python programs: how it ends, what is said, and that nothing is left."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from petrun.train.stop import NOTICE
from tests.parallel.processes import TaggedProcesses, wait_for

SCHEDULER = "import time\ntime.sleep(60)\n"
BLOCKED = "import time\nprint('waiting', flush=True)\ntime.sleep(60)\n"
"""A rank inside a collective, that would listen to a signal."""
RANK = "import os, sys, time\nrank = int(os.environ['RANK_ID'])\n"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str
    seconds: float


class Jobs:
    """Jobs of one test in its folder."""

    def __init__(self, folder):
        self.folder, self.processes = folder, TaggedProcesses()
        self.logs = folder / "logs"

    def start(self, rank, scheduler=SCHEDULER, **asked):
        """Start a job whose ranks run this program; not waited for."""
        for name, text in (("rank.py", rank), ("scheduler.py", scheduler)):
            (self.folder / name).write_text(text)
        paths = {name: str(self.folder / f"{name}.py") for name in ("rank", "scheduler")}
        (self.folder / "job.json").write_text(json.dumps({**paths, "logs": str(self.logs), **asked}))
        return subprocess.Popen(
            [sys.executable, "-m", "tests.parallel.supervised", str(self.folder / "job.json")],
            env=self.processes.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Under nohup, tests inherit a SIGHUP that is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )

    def end(self, process):
        began = time.monotonic()
        out, err = process.communicate(timeout=60)
        done = Done(process.returncode, out, err, time.monotonic() - began)
        assert not self.processes.alive(), "a process is left"
        return done

    def run(self, rank, scheduler=SCHEDULER, **asked):
        return self.end(self.start(rank, scheduler, **asked))

    def log(self, name, attempt=1):
        return (self.logs / f"attempt-{attempt}" / name).read_text()

    def wait_for_ranks(self, count=3, word="waiting"):
        """Until this many ranks have said the word."""
        said = wait_for(lambda: sum(word in path.read_text() for path in self.logs.glob("*/rank_*.log")) == count)
        assert said, "the ranks did not start"


@pytest.fixture
def jobs(tmp_path):
    found = Jobs(tmp_path)
    yield found
    found.processes.kill()


def test_a_good_end(jobs):
    rank = RANK + (
        "print('rank', rank, 'of', os.environ['RANK_SIZE'], os.environ['MS_ROLE'], os.environ['DEVICE_ID'])\n"
        "print('an error of rank', rank, file=sys.stderr)\nprint('no end of line', end='')\n"
    )
    scheduler = "import os\nprint(sorted(name for name in os.environ if name in ('MS_ROLE', 'RANK_ID', 'DEVICE_ID')))\n"
    done = jobs.run(rank, scheduler)
    assert done.code == 0, done.err
    # A pipe's lines come when Python lets go of them: errors first.
    assert sorted(done.out.splitlines()) == ["an error of rank 0", "no end of line", "rank 0 of 3 MS_WORKER 0"]
    assert f"ranks 0 to 2 of 3; logs in {jobs.logs / 'attempt-1'}" in done.err
    assert "rank 2 of 3 MS_WORKER 2" in jobs.log("rank_2.log") and "an error of rank 2" in jobs.log("rank_2.log")
    assert jobs.log("scheduler.log") == "['MS_ROLE']\n"
    # The logs of another job in the same folder come beside these.
    assert jobs.run("raise SystemExit(2)").code == 2
    assert sorted(path.name for path in jobs.logs.iterdir()) == ["attempt-1", "attempt-2"]


def test_the_first_rank_that_fails_ends_the_others_and_is_the_truth(jobs):
    rank = RANK + (
        "def inner():\n    raise ValueError('boom of rank %d' % rank)\n"
        f"if rank == 1:\n    while 'early' not in open({str(jobs.logs / 'attempt-1' / 'rank_2.log')!r}).read():\n"
        "        time.sleep(0.05)\n    inner()\n"
        "if rank == 2:\n    import signal\n    signal.signal(signal.SIGTERM, lambda *_: (print('told to stop'), sys.exit(7)))\n"
        "print('early', flush=True)\ntime.sleep(60)\n"
    )
    done = jobs.run(rank)
    assert done.code == 1 and done.seconds < 20
    assert "error: rank 1 ended with exit code 1 after" in done.err
    assert f"its log: {jobs.logs / 'attempt-1' / 'rank_1.log'}" in done.err
    assert "  Traceback (most recent call last)" in done.err and "  ValueError: boom of rank 1" in done.err
    # The others had time to end by themselves.
    assert "told to stop" in jobs.log("rank_2.log")
    assert done.out == "early\n"


@pytest.mark.parametrize(("action", "code", "said"), [
    ("sys.exit(2)", 2, "rank 2 ended with exit code 2"),
    ("os.kill(os.getpid(), 9)", 137, "rank 2 was ended by SIGKILL (the kernel does that where memory runs out)"),
    ("os.abort()", 134, "rank 2 was ended by SIGABRT"),
])  # fmt: skip
def test_exit_codes(jobs, action, code, said):
    rank = RANK + f"print('about to')\nsys.stdout.flush()\nif rank == 2:\n    {action}\ntime.sleep(60)\n"
    done = jobs.run(rank, restarts=0 if code != 2 else 3)
    assert done.code == code and said in done.err and "  about to" in done.err
    # A wrong command line does not get better by trying again.
    assert len(list(jobs.logs.iterdir())) == 1


def test_restarts(jobs, tmp_path):
    """Twice it fails; the third attempt is good. Each has its own logs and its own scheduler's port."""
    count = tmp_path / "count"
    rank = RANK + (
        f"print(os.environ['MS_SCHED_PORT'], flush=True)\n"
        f"if rank == 1:\n    open({str(count)!r}, 'a').write('x')\n"
        f"    attempt = len(open({str(count)!r}).read())\n"
        f"    log = {str(jobs.logs)!r} + f'/attempt-{{attempt}}/rank_0.log'\n"
        "    while attempt < 3 and not open(log).read():\n        time.sleep(0.05)\n"
        "    if attempt < 3:\n        sys.exit(5)\n"
        f"else:\n    time.sleep(1)\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = jobs.run(rank, "import time; time.sleep(1)", restarts=5, port=port)
    assert done.code == 0, done.err
    assert done.err.count("ended with exit code 5") == 2
    assert "attempt 3 of 6: ranks 0 to 2 of 3" in done.err and "attempt 4" not in done.err
    assert [jobs.log("rank_0.log", n) for n in (1, 2, 3)] == [f"{port + n}\n" for n in range(3)]
    count.write_text("")
    done = jobs.run(rank, restarts=1)
    assert done.code == 5 and done.err.count("ended with exit code 5") == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_reaches_every_rank_and_nothing_is_left(jobs, number, code):
    rank = RANK + (
        "import signal\ndef stop(*_):\n    print('saved by', rank, flush=True)\n    sys.exit(9)\n"
        "signal.signal(signal.SIGTERM, stop)\nprint('waiting', flush=True)\ntime.sleep(60)\n"
    )
    process = jobs.start(rank, restarts=3)
    jobs.wait_for_ranks()
    process.send_signal(number)
    done = jobs.end(process)
    assert done.code == code and done.seconds < 15
    assert [f"saved by {rank}" in jobs.log(f"rank_{rank}.log") for rank in range(3)] == [True] * 3
    assert "saved by 0" in done.out and f"{number.name}: every rank was told to stop" in done.err
    assert len(list(jobs.logs.iterdir())) == 1


DEAF = (
    RANK
    + """
import signal, subprocess
signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True))
# A daemon of the rank's: another session, another parent.
subprocess.Popen([sys.executable, '-S', '-c', 'import subprocess, sys; subprocess.Popen([sys.executable, "-S", "-c", "import signal, time;'
    ' signal.signal(15, signal.SIG_IGN); time.sleep(60)"], start_new_session=True)'], start_new_session=True).wait()
print('waiting', flush=True)
while True:
    time.sleep(1)
"""
)


def test_who_does_not_listen_is_killed_after_the_grace_with_what_it_started(jobs):
    process = jobs.start(DEAF, grace=2.0)
    jobs.wait_for_ranks()
    process.terminate()
    done = jobs.end(process)
    assert done.code == 143 and 1.5 < done.seconds < 15
    assert "no" in jobs.log("rank_1.log")


def test_a_second_signal_ends_the_grace(jobs):
    process = jobs.start(DEAF, grace=50.0)
    jobs.wait_for_ranks()
    process.send_signal(signal.SIGINT)
    jobs.wait_for_ranks(word="no")
    process.send_signal(signal.SIGINT)
    done = jobs.end(process)
    assert done.code == 130 and done.seconds < 15


def test_petrun_is_killed(jobs):
    """Nobody is left to end the ranks but the kernel and the watchdog."""
    process = jobs.start(DEAF, grace=1.0)
    jobs.wait_for_ranks()
    assert len(jobs.processes.alive("rank.py")) == 3
    process.kill()
    process.communicate(timeout=30)
    assert jobs.processes.all_end(), jobs.processes.alive()
    # They were asked first.
    assert "no" in jobs.log("rank_2.log")


def test_petruns_whole_group_is_killed_as_a_scheduler_does(jobs):
    process = jobs.start(BLOCKED)
    jobs.wait_for_ranks()
    watchdog = jobs.processes.alive("petrun.cluster.processes.orphan_watchdog")
    assert len(watchdog) == 1
    # The watchdog is gone, too: ranks still hear of petrun's end from the kernel.
    os.kill(next(iter(watchdog)), signal.SIGKILL)
    process.kill()
    process.communicate(timeout=30)
    assert jobs.processes.all_end(), jobs.processes.alive()


def test_nobody_reads_the_output(jobs):
    process = jobs.start(RANK + "while True:\n    print('waiting', flush=True)\n    time.sleep(0.1)\n")
    jobs.wait_for_ranks()
    process.stdout.close()
    assert process.wait(timeout=30) != 0
    process.stderr.close()
    assert jobs.processes.all_end(), jobs.processes.alive()


def test_the_scheduler_fails(jobs):
    done = jobs.run(RANK + "time.sleep(1)\nsys.exit(3 if rank == 2 else 0)", "raise OSError('no such address')")
    # The ranks know more.
    assert done.code == 3 and "rank 2 ended with exit code 3" in done.err


def test_the_scheduler_ends_well_while_ranks_live(jobs):
    """As it does where it was told of another number of ranks: nobody misses them then."""
    done = jobs.run(BLOCKED, "pass", unload=0.5)
    assert done.code == 1 and "rank 0 was still running 0 s after the job's scheduler had ended" in done.err


def test_a_process_that_is_stopped_is_the_reason(jobs):
    """The others lose it, and end with what MindSpore makes of that."""
    lost = "print('waiting', flush=True)\nwhile not os.path.exists({!r}):\n    time.sleep(0.05)\nos.kill(os.getpid(), 11)\n"
    process = jobs.start(RANK + lost.format(str(jobs.folder / "lost")))
    jobs.wait_for_ranks()
    os.kill(next(iter(jobs.processes.alive("scheduler.py"))), signal.SIGSTOP)
    (jobs.folder / "lost").touch()
    done = jobs.end(process)
    assert done.code == 1
    assert "error: the scheduler is stopped (by SIGSTOP, as a debugger does), and the others have lost it" in done.err


def test_a_signal_to_one_rank_alone_names_that_rank(jobs):
    """All of them stop after the step at hand; those that save have the time for it."""
    rank = RANK + (
        f"import signal\nfrom pathlib import Path\ntold = Path({str(jobs.folder / 'told')!r})\n"
        f"signal.signal(15, lambda *_: (print({NOTICE!r}, flush=True), told.touch()))\nprint('waiting', flush=True)\n"
        "while not told.exists():\n    time.sleep(0.05)\n"
        "time.sleep(0.5 * rank)\nprint('saved', flush=True)\nsys.exit(143)\n"
    )
    process = jobs.start(rank)
    jobs.wait_for_ranks()
    pid = next(
        pid for pid in jobs.processes.alive("rank.py") if b"RANK_ID=1\0" in Path(f"/proc/{pid}/environ").read_bytes()
    )
    os.kill(pid, signal.SIGTERM)
    done = jobs.end(process)
    assert done.code == 143 and "error: rank 1 was told to stop by SIGTERM after" in done.err
    assert [jobs.log(f"rank_{rank}.log").splitlines()[-1] for rank in range(3)] == ["saved"] * 3


def test_a_port_that_is_taken(jobs):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = jobs.run(BLOCKED, port=port)
    assert done.code == 1 and f"--master-port {port}: in use on 127.0.0.1" in done.err
    assert not list(jobs.logs.glob("*/rank_*"))


def test_one_card_is_a_plain_process(jobs):
    rank = "import os\nprint(sorted(name for name in os.environ if name.startswith('MS_SCHED') or name == 'MS_ROLE'))\n"
    done = jobs.run(rank, cards=1)
    assert done.code == 0 and done.out == "[]\n" and "rank 0 of 1; logs in" in done.err
    assert not (jobs.logs / "attempt-1" / "scheduler.log").exists()


def test_logs_that_cannot_be_written(jobs):
    jobs.logs.write_text("a file")
    done = jobs.run("print(1)")
    assert done.code == 1 and f"{jobs.logs}: cannot be written" in done.err and done.out == ""
