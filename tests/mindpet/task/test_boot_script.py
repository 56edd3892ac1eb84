"""A boot script's lines arrive whole and in time, and nothing of it is left."""

import os
import time

import pytest

from petrun.mindpet.task import boot_script
from petrun.mindpet.task.boot_script import run_script


@pytest.fixture
def run(tmp_path):
    """run(source) -> (exit code, lines)."""

    def start(source, timeout=None, arguments=(), show=None):
        script = tmp_path / "boot.py"
        script.write_text(source)
        lines = []
        return run_script(script, arguments, show or lines.append, timeout), lines

    return start


def ended(number):
    """Whether a process has ended: it may not be waited for yet."""
    for _ in range(100):
        try:
            with open(f"/proc/{number}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_every_line_arrives_in_order_with_the_exit_code(run):
    code, lines = run("import sys\nfor n in range(3000): print(n)\nprint('last', end='')\nsys.exit(7)")
    assert code == 7 and lines == [*map(str, range(3000)), "last"]


def test_output_that_is_no_utf8_and_empty_lines(run):
    code, lines = run(
        "import sys\nsys.stdout.buffer.write(b'\\xff\\n\\n')\nprint('é', sys.argv[1:])", arguments=["--a", "b c"]
    )
    assert code == 0 and lines == ["\\xff", "é ['--a', 'b c']"]


def test_time_that_is_over_ends_the_script_and_what_it_started(run, monkeypatch):
    monkeypatch.setattr(boot_script, "_GRACE_SECONDS", 0.5)
    source = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
print(os.getpid(), other.pid)
time.sleep(60)
"""
    began = time.monotonic()
    code, lines = run(source, timeout=1.0)
    assert code is None and time.monotonic() - began < 20
    assert all(ended(number) for number in lines[0].split()) and os.getpgid(0)


def test_a_caller_that_stops_ends_the_script(run):
    seen = []

    def stop(line):
        seen.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("import os, time\nprint(os.getpid())\ntime.sleep(60)", show=stop)
    assert ended(seen[0])


def test_a_process_that_is_left_behind_does_not_keep_the_task(run, monkeypatch):
    monkeypatch.setattr(boot_script, "_LEFT_SECONDS", 0.5)
    source = """
import subprocess, sys
other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(20)'])
print(other.pid)
"""
    began = time.monotonic()
    code, (number,) = run(source)
    os.kill(int(number), 9)
    assert code == 0 and time.monotonic() - began < 10
