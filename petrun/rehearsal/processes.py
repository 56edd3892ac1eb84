"""Run a process for each rank of a cluster that is not there, on the stub of CANN."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from petrun.cluster.processes.interpreter import module_command
from petrun.cluster.processes.logs import tail
from petrun.rehearsal.stub_cann import environment

_AT_ONCE = 2
"""Processes at a time: each is a MindSpore that compiles, with some hundred MB of its own."""


@dataclass(frozen=True)
class RankExit:
    """Holds the exit code and the output of a rank's process."""

    code: int
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def tail(self) -> str:
        return "\n".join(tail(self.log))


def run_ranks(
    module: str,
    ranks: Sequence[int],
    *,
    stub: Path,
    world: int,
    level: int,
    folder: Path,
    done: Callable[[int], None],
) -> dict[int, RankExit]:
    """Run `python -m module folder rank` for each rank, two at a time; `done(rank)` is called as they end. No process outlives this
    call.
    """
    ended: dict[int, RankExit] = {}
    waiting, running = list(ranks), dict[int, subprocess.Popen[bytes]]()
    try:
        while waiting or running:
            while waiting and len(running) < _AT_ONCE:
                rank = waiting.pop(0)
                running[rank] = _start(module, rank, stub, world, level, folder)
            finished = _wait_any(running)
            ended[finished] = RankExit(running.pop(finished).returncode, _log(folder, finished))
            done(finished)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return ended


def _log(folder: Path, rank: int) -> Path:
    return folder / f"rank_{rank}.log"


def _start(module: str, rank: int, stub: Path, world: int, level: int, folder: Path) -> subprocess.Popen[bytes]:
    graphs = folder / f"rank_{rank}"
    graphs.mkdir()
    env = {
        **environment(stub, rank, world, level),
        # MindSpore writes the graph after its parallel passes there, and its other files too.
        "MS_DEV_SAVE_GRAPHS": "1",
        "MS_DEV_SAVE_GRAPHS_PATH": str(graphs),
        "MS_DEV_DUMP_IR_PASSES": "validate,step_parallel",
        "MS_OM_PATH": str(graphs),
        # MindSpore writes errors of its front end into its log.
        "GLOG_v": "3",
    }
    # The ranks end with the rehearsal, also where it is killed or its terminal is closed.
    command = [
        *module_command("petrun.cluster.processes.parent_death_signal", str(os.getpid())),
        *module_command(module, str(folder), str(rank)),
    ]
    with _log(folder, rank).open("wb") as log:
        return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def _wait_any(running: Mapping[int, subprocess.Popen[bytes]]) -> int:
    while True:
        for rank, process in running.items():
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            return rank
