"""Ranks of a cluster that is not there: processes started on the stub of CANN, and what stands in the graphs that they compile."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from petrun.cluster.interpreter import module_command
from petrun.cluster.logs import tail
from petrun.rehearsal.stub_cann import environment

COLLECTIVES = ("AllReduce", "AllGather", "ReduceScatter", "AlltoAll", "Broadcast", "Send", "Receive")
AT_ONCE = 2
"""Children at a time: each is a MindSpore that compiles, with some hundred MB of its own."""
_BYTES = {"Bool": 1, "Int8": 1, "UInt8": 1, "Int16": 2, "Float16": 2, "BFloat16": 2, "Int64": 8, "Float64": 8}


@dataclass(frozen=True)
class Ended:
    """How a rank's process came out."""

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
) -> dict[int, Ended]:
    """`python -m module folder rank` for each rank, two at a time; `done(rank)` is called as they end. None outlives this call."""
    ended: dict[int, Ended] = {}
    waiting, running = list(ranks), dict[int, subprocess.Popen[bytes]]()
    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                rank = waiting.pop(0)
                running[rank] = _start(module, rank, stub, world, level, folder)
            finished = _wait_any(running)
            ended[finished] = Ended(running.pop(finished).returncode, _log(folder, finished))
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
        # The graph after MindSpore's parallel passes, and nothing else; what it writes beside goes there as well.
        "MS_DEV_SAVE_GRAPHS": "1",
        "MS_DEV_SAVE_GRAPHS_PATH": str(graphs),
        "MS_DEV_DUMP_IR_PASSES": "validate,step_parallel",
        "MS_OM_PATH": str(graphs),
        # Errors of the front end are told in its log.
        "GLOG_v": "3",
    }
    # A rehearsal whose terminal is gone, or that was killed, takes its ranks with it.
    command = [
        *module_command("petrun.cluster.parent_death_signal", str(os.getpid())),
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


def collectives(graphs: Iterable[str]) -> dict[str, tuple[int, int]]:
    """{operator: (how many stand in the graphs, bytes that all of them return)}, of graphs as MindSpore prints them."""
    found: dict[str, tuple[int, int]] = {}
    for text in graphs:
        for name, returned in re.findall(
            rf"^ *%\d+\(.*?\) = (?:PrimFunc_)?({'|'.join(COLLECTIVES)})\(.*\n *: \(.*\) -> (.*)", text, re.MULTILINE
        ):
            count, size = found.get(name, (0, 0))
            found[name] = (count + 1, size + _tensor_bytes(returned))
    return {name: found[name] for name in COLLECTIVES if name in found}


def gradient_sums(graphs: Sequence[str]) -> dict[str, int]:
    """{parameter: how often its gradient is summed over the same ranks}. Where zero cuts a weight, its gradient is scattered to the ranks
    that share it, and summed over the others that hold it: once each is right, so the larger of both counts."""
    marks = (("AllReduce", "grad_mirror_"), ("ReduceScatter", "grad_parallel_optimizer_"))
    found: Counter[str] = Counter()
    for operator, instance in marks:
        pattern = rf"= (?:PrimFunc_)?{operator}\(.*instance name: {instance}.*mirror_user_id: \"([^\"]*)\""
        found |= Counter(name for text in graphs for name in re.findall(pattern, text))
    return dict(found)


def _tensor_bytes(returned: str) -> int:
    return sum(
        _BYTES.get(kind, 4) * prod(int(n) for n in re.findall(r"\d+", shape))
        for kind, shape in re.findall(r"Tensor\[(\w+)\], \(([\d, ]*)\)", returned)
    )
