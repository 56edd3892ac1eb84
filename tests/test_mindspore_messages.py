"""The long messages of MindSpore, CANN and HCCL, each as the one line that says what is wrong."""

import re

import pytest

from petrun.mindspore_messages import first_line, message_lines
from tests.cli.test_faults import MEMORY, OTHER, RULE, SOCKET

RANKS = f"\n{RULE}\n- Internal Error:\n{RULE}\nConnect to the scheduler failed: timed out node 3\n\n{RULE}\n- C++ Call Stack: (For framework developers)\n{RULE}\n"  # noqa: E501
FRONT_END = """# 0 In file /home/me/net.py:12, 8~30
# 1 In file /home/me/step.py:4
The input of MatMul must be a tensor
----------------------------------------------------
- The Traceback of Net Construct Code:
----------------------------------------------------
# 0 In file /home/me/net.py:12, 8~30
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            SOCKET,
            "EI0006: 2026-01-01-00:00:00 Getting socket times out. Reason: Remote Rank did not send the data in time.",
        ),
        (OTHER, "EZ9999: Inner Error!"),
        (RANKS, "Connect to the scheduler failed: timed out node 3"),
        (FRONT_END, "The input of MatMul must be a tensor"),
        ("plain\nmore", "plain"),
        ("Launch failed\nat a place\nE40021 Failed to compile", "E40021 Failed to compile"),
        ("-1 is no axis", "-1 is no axis"),
        (f"{RULE}\n- Only a heading:\n", ""),
        ("", ""),
    ],
)
def test_one_line_of_many(text, line):
    assert first_line(text) == line


def test_the_line_that_is_wanted_goes_first():
    assert first_line(MEMORY).startswith("Device(id:3) memory isn't enough")
    assert first_line("a\nb operator\n", re.compile("operator")) == "b operator"


def test_lines_that_say_something():
    assert message_lines(FRONT_END) == ["The input of MatMul must be a tensor"]
