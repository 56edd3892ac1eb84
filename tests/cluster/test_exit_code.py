"""How the end of a process becomes an exit code, and what an exit code means."""

import signal
import subprocess
import sys

import pytest

from petrun.cluster import exit_code
from petrun.errors import ConfigError


@pytest.mark.parametrize(
    ("program", "code", "text"),
    [
        ("raise SystemExit(0)", 0, "ended with exit code 0"),
        ("raise SystemExit(3)", 3, "ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 15)", 143, "was ended by SIGTERM"),
        (
            "import os; os.kill(os.getpid(), 9)",
            137,
            "was ended by SIGKILL (the kernel does that where memory runs out)",
        ),
    ],
)
def test_the_end_of_a_process_as_a_shell_counts_it(program, code, text):
    status = subprocess.run([sys.executable, "-c", program], check=False).returncode
    assert exit_code.of_status(status) == code
    assert exit_code.describe(code) == text


def test_codes_of_signals():
    assert exit_code.of_signal(signal.SIGTERM) == 143 and exit_code.signal_name(143) == "SIGTERM"
    assert exit_code.signal_name(1) is None and exit_code.signal_name(255) is None
    assert exit_code.STOPPED == (130, 143)


def test_a_wrong_setting_is_not_tried_again():
    assert ConfigError("no").exit_code == exit_code.CONFIG_ERROR
    assert [code for code in (0, 1, 2, 3, 137, 143) if exit_code.may_be_retried(code)] == [1, 3, 137, 143]
