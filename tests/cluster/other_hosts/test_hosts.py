"""Jobs of two hosts, which are two petruns on this machine whose ranks are plain Python programs: what one host says of the other."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from petrun.train.stop import NOTICE
from tests.parallel.processes import TaggedProcesses, wait_for

RANK = "import os, sys, time\nrank = int(os.environ['RANK_ID'])\nprint('waiting', flush=True)\n"
BLOCKED = RANK + "time.sleep(60)\n"


class Pair:
    """The same job on host 0 and host 1."""

    def __init__(self, folder):
        self.folder, self.processes = folder, TaggedProcesses()
        # It ends before the ranks where these are blocked, and has not to be waited for where they end well.
        (folder / "scheduler.py").write_text("import time\ntime.sleep(1)\n")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(self, host_rank, rank=BLOCKED, variables=None, **asked):
        """This host's petrun; not waited for."""
        script = self.folder / f"rank-{host_rank}.py"
        script.write_text(rank)
        told = {
            "cards": 2,
            "hosts": 2,
            "host_rank": host_rank,
            "port": self.port,
            "logs": str(self.logs(host_rank)),
            **asked,
        }
        path = self.folder / f"job-{host_rank}.json"
        path.write_text(json.dumps({**told, "rank": str(script), "scheduler": str(self.folder / "scheduler.py")}))
        return subprocess.Popen(
            [sys.executable, "-m", "tests.parallel.supervised", str(path)],
            env={**self.processes.environment, **(variables or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def both(self, rank=BLOCKED, **asked):
        return [self.start(host_rank, rank, **asked) for host_rank in (0, 1)]

    def logs(self, host_rank):
        return self.folder / f"host-{host_rank}"

    def wait_for_ranks(self):
        paths = [self.logs(number) / "attempt-1" / f"rank_{number}.log" for number in (0, 1)]
        assert wait_for(lambda: all(path.exists() and "waiting" in path.read_text() for path in paths))

    def pid(self, word):
        """Of the one process that has this in its command line."""
        (found,) = self.processes.alive(word)
        return found

    def end(self, processes):
        """(exit code, what it said) of each; nothing of the job is left."""
        done = []
        for process in processes:
            _, err = process.communicate(timeout=60)
            done.append((process.returncode, err))
        assert self.processes.all_end(), self.processes.alive()
        return done


@pytest.fixture
def pair(tmp_path):
    found = Pair(tmp_path)
    yield found
    found.processes.kill()


HOST_1 = f"on host 1 ({socket.gethostname()})"


def test_a_good_end_at_different_times(pair):
    processes = pair.both(RANK + "time.sleep(1 - rank)\n")
    assert [code for code, _ in pair.end(processes)] == [0, 0]


def test_a_killed_rank_of_another_host_is_named_at_once_with_its_reason(pair):
    processes = pair.both()
    pair.wait_for_ranks()
    began = time.monotonic()
    os.kill(pair.pid("rank-1.py"), signal.SIGKILL)
    (code, err), (other_code, other_err) = pair.end(processes)
    assert (code, other_code) == (137, 137)
    assert f"error: rank 1 was ended by SIGKILL (the kernel does that where memory runs out) {HOST_1} after" in err
    assert (
        "error: rank 1 was ended by SIGKILL" in other_err
        and "host" not in other_err.partition("error")[2].split("its log")[0]
    )
    assert time.monotonic() - began < 25, "MindSpore's own limit is 30 seconds"


def test_a_failing_ranks_exit_code_and_the_end_of_its_log_reach_the_other_host(pair):
    failing = RANK + "time.sleep(0.5)\nprint('error: row 3: no prompt')\nsys.exit(2)\n"
    processes = [pair.start(0, restarts=2), pair.start(1, failing, restarts=2)]
    (code, err), (other_code, _) = pair.end(processes)
    assert (code, other_code) == (2, 2)
    assert f"error: rank 1 ended with exit code 2 {HOST_1} after" in err and "  error: row 3: no prompt" in err
    # A wrong setting is not tried again, on no host.
    assert not (pair.logs(0) / "attempt-2").exists() and not (pair.logs(1) / "attempt-2").exists()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"cards": 4}, "--cards 2 here, 4 on host 1"),
        ({"hosts": 3, "cards": 3}, "--cards 2 here, 3 on host 1"),
        ({"restarts": 1}, "--max-restarts 0 here, 1 on host 1"),
    ],
)
def test_hosts_that_were_told_different_shapes_name_the_difference(pair, other, words):
    processes = [pair.start(0), pair.start(1, **other)]
    for code, err in pair.end(processes):
        assert code == 1 and words in err and "the hosts were not told the same" in err
    assert not list(pair.folder.glob("host-*/attempt-1/rank_*")), "no rank starts"


def test_two_hosts_with_one_number_and_one_that_does_not_come(pair):
    settings = {"hosts": 3, "cards": 3, "variables": {"MS_TOPO_TIMEOUT": "20"}}
    processes = [pair.start(0, **settings), pair.start(1, **settings)]
    assert wait_for(lambda: len(pair.processes.alive("job-1.json")) == 1)
    twin = pair.start(1, **settings)
    for code, err in pair.end([*processes, twin]):
        assert code == 1 and re.search(r"--host-rank 1 on \S+, and on \S+", err), err
    settings["variables"]["MS_TOPO_TIMEOUT"] = "1"
    ((code, err),) = pair.end([pair.start(0, **settings)])
    assert code == 1 and "waiting for hosts 1, 2 of 3 on 127.0.0.1" in err
    assert f"hosts 1, 2 did not come to 127.0.0.1 port {pair.port} within 1 s" in err
    ((code, err),) = pair.end([pair.start(1, **settings)])
    assert code == 1 and f"host 0 did not answer at 127.0.0.1 port {pair.port} within 1 s" in err


def test_a_petrun_that_is_killed_ends_the_other_host(pair):
    processes = pair.both()
    pair.wait_for_ranks()
    processes[1].kill()
    (code, err), _ = pair.end(processes)
    assert code == 1 and f"error: {HOST_1[3:]} was lost after" in err
    assert "its petrun has ended without a word" in err


def test_hosts_that_hear_nothing_of_each_other_both_end(pair):
    """As where the network between them is cut: no connection ends, and nothing comes."""
    processes = pair.both(variables={"MS_NODE_TIMEOUT": "4"})
    pair.wait_for_ranks()
    processes[1].send_signal(signal.SIGSTOP)
    _, err = processes[0].communicate(timeout=30)
    assert processes[0].returncode == 1 and f"error: {HOST_1[3:]} was lost after" in err
    assert "nothing was heard of it for 2 s: the network is cut, or it is down" in err
    processes[1].send_signal(signal.SIGCONT)
    ((code, err),) = pair.end(processes[1:])
    assert code == 1 and "was lost" in err


def test_a_signal_to_one_petrun_stops_the_ranks_of_all_hosts(pair):
    listening = (
        "import signal, sys\nsignal.signal(15, lambda *_: (print('saved', flush=True), sys.exit(143)))\n"
        + RANK
        + "time.sleep(60)\n"
    )
    processes = pair.both(listening, restarts=2)
    pair.wait_for_ranks()
    processes[1].send_signal(signal.SIGINT)
    (code, err), (other_code, other_err) = pair.end(processes)
    assert (code, other_code) == (130, 130)
    assert f"SIGINT to petrun {HOST_1}: every rank was told to stop here as well" in err
    assert "SIGINT: every rank was told to stop" in other_err
    assert "saved" in (pair.logs(0) / "attempt-1" / "rank_0.log").read_text()


def test_a_signal_to_a_rank_of_another_host_names_that_rank(pair):
    """The ranks stop together, and the one that was told is the last to end."""
    told = str(pair.folder / "told")
    # The handler is there before the rank says that it runs.
    rank = (
        f"import signal\nsignal.signal(15, lambda *_: (print({NOTICE!r}, flush=True), open({told!r}, 'w')))\n"
        f"{RANK}while not os.path.exists({told!r}):\n    time.sleep(0.05)\ntime.sleep(3 * rank)\nsys.exit(143)\n"
    )
    processes = pair.both(rank)
    pair.wait_for_ranks()
    os.kill(pair.pid("rank-1.py"), signal.SIGTERM)
    (code, err), (other_code, other_err) = pair.end(processes)
    assert (code, other_code) == (143, 143)
    assert f"error: rank 1 was told to stop by SIGTERM {HOST_1} after" in err
    assert "error: rank 1 was told to stop by SIGTERM after" in other_err


def test_both_hosts_begin_again_together_at_a_scheduler_that_host_0_chooses(pair):
    rank = RANK + (
        "port = os.environ['MS_SCHED_PORT']\nprint(port, flush=True)\n"
        f"first = not os.path.exists({str(pair.folder / 'failed')!r})\n"
        f"if first and rank == 1:\n    time.sleep(1)\n    open({str(pair.folder / 'failed')!r}, 'w').write(port)\n    sys.exit(5)\n"
        "time.sleep(60 if first else 0)\n"
    )
    (code, err), (other_code, _) = pair.end(pair.both(rank, restarts=1))
    assert (code, other_code) == (0, 0), err
    assert f"rank 1 ended with exit code 5 {HOST_1}" in err and "attempt 2 of 2: rank 0 of 2" in err
    ports = [(pair.logs(n) / f"attempt-{a}" / f"rank_{n}.log").read_text().split()[1] for a in (1, 2) for n in (0, 1)]
    assert ports[0] == ports[1] and ports[2] == ports[3] and str(pair.port) not in ports


def test_other_programs_at_the_port(pair):
    """A port scanner at host 0's, and a server that is no petrun where host 0 is expected."""
    first = pair.start(0, RANK)
    assert wait_for(lambda: _sends(pair.port, b"GET / HTTP/1.0\r\n\r\n"))
    assert [code for code, _ in pair.end([first, pair.start(1, RANK)])] == [0, 0]
    for words in (b"220 mail.example ready\n", b'{"petrun": 99}\n'):
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", pair.port))
            server.listen()
            process = pair.start(1)
            connected, _ = server.accept()
            with connected:
                connected.sendall(words)
                ((code, err),) = pair.end([process])
        assert code == 1 and "what answers there is not this version of petrun" in err


def _sends(port, words):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connected:
            connected.sendall(words)
        return True
    except OSError:
        return False


def test_the_port_is_held_while_the_hosts_meet(pair):
    first = pair.start(0)
    assert wait_for(lambda: _sends(pair.port, b"\n"))
    second = pair.start(0)
    _, err = second.communicate(timeout=30)
    assert second.returncode == 1 and f"--master-port {pair.port}: in use on 127.0.0.1" in err
    first.terminate()
    assert [code for code, _ in pair.end([first])] == [143]
