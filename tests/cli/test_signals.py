"""A signal that a run defers, to a rank whose step never ends because another rank is lost."""

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT

WAITING = """
import time
from petrun.cli import signals
from petrun.train.stop import stop_request
signals.install()
with signals.distinguish_signals(), stop_request().deferring():
    print("waiting", flush=True)
    while True:
        # A wait that goes on after a signal, as a collective's.
        time.sleep(60)
"""


def start(**variables):
    clean = {
        key: value for key, value in os.environ.items() if key not in ("MS_ROLE", "RANK_TABLE_FILE", "PETRUN_GRACE")
    }
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        env={**clean, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "waiting\n"
    process.terminate()
    return process


def test_a_rank_that_makes_no_step_ends_after_the_grace():
    for role in ({"MS_ROLE": "MS_WORKER"}, {"RANK_TABLE_FILE": "hccl.json"}):
        process = start(PETRUN_GRACE="0.5", **role)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 143
        assert "stopping after this step" in err and "the step at hand has not ended within 0.5 s" in err


def test_a_process_that_is_no_rank_has_all_the_time_for_its_step():
    process = start(PETRUN_GRACE="0.2")
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143


OVERDUE = """
import time
from petrun.cli import signals
from petrun.train.stop import stop_request
with signals.distinguish_signals():
    with stop_request().within(0.2, "early"):
        pass
    time.sleep(0.5)
    print("waiting", flush=True)
    with stop_request().within(0.3, "the first all-reduce has not ended"):
        time.sleep(60)
"""


def test_a_wait_for_another_process_has_an_end():
    done = subprocess.run([sys.executable, "-c", OVERDUE], capture_output=True, text=True, timeout=40)
    assert (done.returncode, done.stdout) == (1, "waiting\n")
    assert done.stderr.endswith("error: the first all-reduce has not ended\n") and "early" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_last_handler_keeps_the_exit_code(number):
    """While modules are unloaded Python handles no signals: their default action would end the process."""
    program = f"""
import os, sys
from petrun.cli import signals

class UnloadedLast:
    def __del__(self, kill=os.kill, process=os.getpid()):
        kill(process, {int(number)})

signals.install()
last = UnloadedLast()
signals.retire(130)
sys.exit(130)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60).returncode == 130
