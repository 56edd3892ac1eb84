"""Which way a process was started, what it then finds itself to be, and what the scheduler does not do."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, communication

from petrun import console as report
from petrun.cli.app import main
from petrun.cluster import failures, world
from petrun.cluster.world import ALONE, World, join, start_up
from petrun.errors import ConfigError, OutputError, PetrunError, SetupError
from petrun.train.stop import Stopped
from petrun.training.run_log import RunLog
from tests.conftest import ROOT

CLUSTER = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "4", "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": "8118"}
NAMES = (*CLUSTER, *world.TABLES, "RANK_ID", "RANK_SIZE", "MS_SIMULATION_LEVEL")


@pytest.fixture
def started(monkeypatch):
    """started(environment) and communication that answers: rank 2 of 4."""
    called = []
    monkeypatch.setattr(communication, "init", lambda: called.append("init"))
    answers = {"get_rank": 2, "get_group_size": 4, "get_local_rank": 0, "get_local_rank_size": 2}
    for name, value in answers.items():
        monkeypatch.setattr(communication, name, lambda value=value: value)

    def start(environment):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return called

    return start


@pytest.mark.parametrize(
    ("environment", "how"),
    [
        ({}, "alone"),
        ({"RANK_ID": "3", "RANK_SIZE": "8"}, "alone"),
        ({"RANK_TABLE_FILE": "hccl.json"}, "alone"),
        ({"RANK_TABLE_FILE": "hccl.json", "RANK_ID": "3"}, "rank table"),
        ({"MINDSPORE_HCCL_CONFIG_PATH": "hccl.json", "RANK_ID": "3"}, "rank table"),
        ({"MS_SIMULATION_LEVEL": "0", "RANK_SIZE": "1", "RANK_ID": "0"}, "alone"),
        ({"MS_SIMULATION_LEVEL": "0", "RANK_SIZE": "8", "RANK_ID": "5"}, "rehearsal"),
        (CLUSTER, "cluster"),
        ({**CLUSTER, "RANK_TABLE_FILE": "hccl.json", "RANK_ID": "3"}, "cluster"),
    ],
)
def test_how_a_process_was_started(started, environment, how):
    started(environment)
    assert start_up() == how


def test_the_rank_is_what_mindspore_says_after_init(started, monkeypatch):
    monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", "77")
    called = started({**CLUSTER, "RANK_ID": "0"})
    assert join("cpu") == World(rank=2, size=4, host_rank=0, host_size=2) and called == ["init"]
    assert os.environ["HCCL_CONNECT_TIMEOUT"] == "77", "what the user has set, stays"
    monkeypatch.delenv("HCCL_CONNECT_TIMEOUT")
    started({"RANK_TABLE_FILE": "hccl.json", "RANK_ID": "3"})
    assert (
        join("ascend") == World(rank=2, size=4, host_rank=0, host_size=2, in_graph=True)
        and os.environ["HCCL_CONNECT_TIMEOUT"] == "600"
    )
    called.clear()
    started({"RANK_ID": "3", "RANK_SIZE": "8"})
    assert join("cpu") is ALONE and not called, "what is left in the environment starts nothing"


@pytest.mark.parametrize(
    ("environment", "target", "words"),
    [
        ({"MS_ROLE": "worker"}, "cpu", "MS_ROLE is 'worker'"),
        ({"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2"}, "cpu", "not MS_SCHED_HOST, MS_SCHED_PORT"),
        ({"RANK_TABLE_FILE": "hccl.json", "RANK_ID": "3"}, "cpu", "RANK_TABLE_FILE is set, but this process computes on the CPU"),
        ({"MS_SIMULATION_LEVEL": "0", "RANK_SIZE": "8"}, "cpu", "MS_SIMULATION_LEVEL is set, but"),
        ({"MS_SIMULATION_LEVEL": "0", "RANK_SIZE": "eight"}, "ascend", "RANK_SIZE is 'eight'"),
    ],
)  # fmt: skip
def test_an_environment_that_cannot_work_is_refused_before_init(started, environment, target, words):
    called = started(environment)
    with pytest.raises(SetupError, match=words):
        join(target)
    assert not called


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (f"{'-' * 52}\n- Framework Error Message:\n{'-' * 52}\nhcclCommInitRootInfo failed", "look at the rank table"),
        ("Topology build timed out.\nC++ Call Stack", "the port is taken"),
        ("The total number of timed out node is 1. Timed out node list is: {1}", "its own log says why"),
        ("something else", "other ranks"),
    ],
)
def test_why_ranks_do_not_come_together(started, monkeypatch, said, hint):
    started(CLUSTER)

    def fail():
        raise RuntimeError("\n" + said)

    monkeypatch.setattr(communication, "init", fail)
    with pytest.raises(SetupError) as caught:
        join("cpu")
    assert (
        next(line for line in said.splitlines() if line[0] != "-") in caught.value.message
        and "Call Stack" not in caught.value.message
    )
    assert hint in caught.value.hint


def test_the_scheduler_goes_straight_to_init_and_ends_well(started, monkeypatch, tmp_path):
    """The same command line as a rank's: nothing of it is read, nothing is made."""
    monkeypatch.chdir(tmp_path)
    called = started({**CLUSTER, "MS_ROLE": "MS_SCHED"})
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr("sys.argv", ["petrun", "train", "missing.yaml", "--base", "nowhere", "--out", "run"])
    try:
        with pytest.raises(SystemExit) as end:
            main()
        found = {number: signal.getsignal(number) for number in before}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert not end.value.code and called == ["init"] and not list(tmp_path.iterdir())
    assert set(found.values()) == {signal.SIG_DFL}, "init waits outside Python: only the default action ends it"


def test_alone_all_agree_with_themselves():
    assert ALONE.any_rank(True) and not ALONE.any_rank(False) and ALONE.of_first_rank(True) and ALONE.first


def test_agreement_is_any_and_a_decision_is_the_firsts(monkeypatch):
    given, others = [], [0]

    class Reduce:
        """What the other ranks vote is added."""

        def __call__(self, votes):
            given.append(float(votes.asnumpy()[0]))
            return votes + Tensor(np.float32(others[0]), ms.float32)

    monkeypatch.setattr(world.ops, "AllReduce", Reduce)
    for others[0], flag, outcome in ((0, False, False), (0, True, True), (1, False, True), (3, True, True)):
        assert World(rank=1, size=4).any_rank(flag) is outcome
    others[0] = 0
    assert World(rank=0, size=4).of_first_rank(True) and not World(rank=1, size=4).of_first_rank(True)
    assert given[-2:] == [1.0, 0.0], "what another rank thinks does not count"


@pytest.fixture
def summed(monkeypatch):
    """summed(value): what the other ranks put into every sum."""
    others = [0.0]

    class Reduce:
        def __call__(self, given):
            return given + Tensor(np.float32(others[0]), ms.float32)

    monkeypatch.setattr(world.ops, "AllReduce", Reduce)
    return lambda value: others.__setitem__(0, value)


def test_where_one_rank_fails_all_do(summed):
    with World(rank=1, size=2).fail_together():
        pass
    with pytest.raises(ConfigError, match="mine"), World(rank=1, size=2).fail_together():
        raise ConfigError("mine")
    summed(1.0)
    with pytest.raises(SetupError, match="another rank failed"), World(rank=1, size=2).fail_together():
        pass
    with pytest.raises(ConfigError, match="mine"), World(rank=1, size=2).fail_together():
        raise ConfigError("mine")
    with ALONE.fail_together():
        pass
    with pytest.raises(ConfigError, match="mine"), ALONE.fail_together():
        raise ConfigError("mine")


def test_who_failed_is_told_where_anybody_did(monkeypatch):
    """One sum where all is well; two where not, on every rank alike, and the second may fail."""
    sums, others = [], []

    class Reduce:
        def __call__(self, given):
            sums.append(given.asnumpy())
            other = others[len(sums) - 1]
            if isinstance(other, Exception):
                raise other
            return Tensor(sums[-1] + other)

    monkeypatch.setattr(world.ops, "AllReduce", Reduce)
    why = failures.failure_table(OutputError("run/rank_1: the disk is full\nand more", hint="Make room."), 1, 2)
    others[:] = [np.float32(0.0)]
    with World(rank=0, size=2).fail_together():
        pass
    assert len(sums) == 1 and sums.pop().size == 1
    others[:] = [np.float32(1.0), why]
    with (
        pytest.raises(SetupError, match=r"^rank 1 failed: run/rank_1: the disk is full\n") as caught,
        World(rank=0, size=2).fail_together(),
    ):
        pass
    assert "The log of rank 1" in caught.value.hint and caught.value.exit_code == 1
    assert [given.any() for given in sums] == [False, False] and sums[1].shape == why.shape
    sums.clear()
    with pytest.raises(OutputError, match="mine"), World(rank=0, size=2).fail_together():
        raise OutputError("mine")
    assert [given.any() for given in sums] == [True, True] and sums[1].shape == why.shape
    for own in (None, OutputError("mine")):
        sums.clear()
        others[1] = RuntimeError("connection reset")
        with (
            pytest.raises(PetrunError, match="another rank failed" if own is None else "mine"),
            World(rank=0, size=2).fail_together(),
        ):
            if own is not None:
                raise own


def test_an_error_that_nobody_foresaw_is_voted_on_too(monkeypatch):
    """But no signal, which ends this rank without waiting; and where the vote fails the error of this rank is still the one."""
    sums, gone = [], []

    class Reduce:
        def __call__(self, given):
            sums.append(given.asnumpy())
            if gone:
                raise RuntimeError("connection reset")
            return Tensor(sums[-1])

    monkeypatch.setattr(world.ops, "AllReduce", Reduce)
    with pytest.raises(KeyError, match="surprise"), World(rank=1, size=2).fail_together():
        raise KeyError("surprise")
    (said,) = failures.failures_in(sums[1])
    assert (said.rank, said.exit_code, said.reason) == (1, 1, "KeyError: 'surprise'")
    gone.append(0)
    for error in (KeyError("surprise"), OSError(28, "No space left on device")):
        with pytest.raises(type(error)) as caught, World(rank=1, size=2).fail_together():
            raise error
        assert caught.value is error
    sums.clear()
    with pytest.raises(Stopped), World(rank=1, size=2).fail_together():
        raise Stopped(15)
    assert not sums


def test_ranks_of_a_table_sum_in_graphs_also_where_operators_are_split(ascend, tmp_path):
    """Which a split job's graphs may not hold. What is compiled afterwards is sharded as what was before."""
    environment = ascend(1, 4, 0)
    environment["PYTHONPATH"] = f"{ROOT}:{environment['PYTHONPATH']}"
    command = [sys.executable, "-m", "tests.parallel.one_sum"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("CUT "))
    before, after, now = json.loads(line.removeprefix("CUT "))
    assert before == after and before[0] == [8, 8] and now == ["semi_auto_parallel", "full_batch"]


def test_what_differs_from_the_first_rank_is_named(monkeypatch):
    first = {"data.path": "[1]", "optim.lr": "0.1", "train.seed": "0"}
    sent = []

    class Reduce:
        """The sum of what the first rank sends and the zeros of the others."""

        def __call__(self, given):
            sent.append(given.asnumpy())
            return Tensor(sent[0] + (0 if len(sent) == 1 else sent[-1]))

    monkeypatch.setattr(world.ops, "AllReduce", Reduce)
    assert World(rank=0, size=3).differing(first) == () and sent[0].any()
    assert World(rank=1, size=3).differing(dict(reversed(first.items()))) == () and not sent[1].any()
    assert World(rank=2, size=3).differing({**first, "optim.lr": "0.10", "data.path": "[2]"}) == (
        "data.path",
        "optim.lr",
    )
    assert ALONE.differing(first) == () and len(sent) == 3


def test_an_error_names_its_rank_where_there_are_several():
    with pytest.raises(PetrunError, match=r"^rank 1 of 2: no\n"), World(rank=1, size=2).rank_in_errors():
        raise PetrunError("no", hint="way out")
    with pytest.raises(PetrunError, match=r"^no$"), ALONE.rank_in_errors():
        raise PetrunError("no")


def test_the_other_ranks_are_silent(capsys, tmp_path):
    try:
        report.set_quiet()
        report.print("a line")
        report.progress("rows")(1, 1)
        bar = report.StepBar(1)
        bar.step({"step": 1, "loss": 1.0, "lr": 1.0, "tokens_per_second": 1.0})
        bar.close()
    finally:
        report.set_quiet(False)
    log = RunLog(tmp_path / "log.jsonl", writes=False)
    log.write({"step": 1})
    log.close()
    assert capsys.readouterr() == ("", "") and not list(tmp_path.iterdir())
    report.print("a line")
    assert capsys.readouterr().out == "a line\n"


def meeting(size):
    """Worlds of so many ranks, one for each thread, whose sums meet in memory."""
    barrier, given = threading.Barrier(size), {}

    class Meeting(World):
        def summed(self, values):
            given[self.rank] = values.copy()
            barrier.wait()
            total = np.sum([given[rank] for rank in range(size)], axis=0, dtype=np.float32)
            barrier.wait()
            return total

    return [Meeting(rank=rank, size=size) for rank in range(size)]


@pytest.mark.parametrize("at_once", [2**20, 7])
def test_what_ranks_gather_are_the_bits_that_each_gave(monkeypatch, at_once):
    """Also of numbers that float32 does not hold, in sums of a part of the table each, and from a rank that has no row."""
    monkeypatch.setattr(world, "_GATHERED_AT_ONCE", at_once)
    table = np.array([[0.1, -0.0, np.nan], [np.inf, 5e-324, -1e300], [2.0**53 + 1, 1 / 3, -7.0], [0.0, 1.0, 65536.5]])
    shares = [np.array([3, 0]), np.zeros(0, np.int64), np.array([1, 2])]
    with ThreadPoolExecutor(3) as threads:
        pending = [
            threads.submit(one.gathered, rows, table[rows] if len(rows) else np.zeros((0, 0)), len(table))
            for one, rows in zip(meeting(3), shares, strict=True)
        ]
        found = [each.result(timeout=60) for each in pending]
    for gathered in found:
        assert gathered.tobytes() == table.tobytes()
