"""Two sides of a comparison, each a process of its own, that take turns: a machine whose speed drifts slows both.

A worker answers each line of its input with one JSON object; anything else that it prints is passed over.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any


class Worker:
    """The parent's end of a worker process."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        # Idle threads must sleep, not spin on the cores that the other side is using.
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "GLOG_v": "3"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        self.name = name

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line and wait for its answer."""
        self.input.write(f"{line}\n")
        self.input.flush()
        for found in self.output:
            if found.startswith("{"):
                return dict(json.loads(found))
        raise SystemExit(f"the {self.name} side ended with code {self.process.wait()}")

    def close(self) -> None:
        self.input.close()
        self.process.wait()


def answer_lines(one: Callable[[str], dict[str, Any]]) -> None:
    """The worker's end: answer every line of the input."""
    for line in sys.stdin:
        print(json.dumps(one(line.strip())), flush=True)
