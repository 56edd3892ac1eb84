"""The memory plan beside measurement: predicted, measured, ratio.

    python scripts/bench/memory.py [--part cpu ascend] [--cases NAME ...]

cpu: each case is `petrun train` of two steps in a process of its own, on random weights, with an empty compile cache; measured is the
process's peak resident size (VmHWM). Beside it `model`: both figures without the fixed part. The fixed part of the measured one is the peak
of the same job with a net of the same layers and operators, but 64 wide and with rows of 8 tokens; of the predicted one it is the plan's
own line `process`, and the plan of the small job's tensors is taken off the measured one.
ascend: each case is `petrun rehearse`, whose peak is MindSpore's own plan of the compiled graph.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from petrun.parallel.memory.plan import MemoryPlan

MIB = 2**20
SMALL_WIDTH, SMALL_TOKENS = 64, 8
BASES: Mapping[str, Mapping[str, object]] = {
    "bert": {
        "model_type": "bert", "vocab_size": 8192, "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8,
        "intermediate_size": 2048, "max_position_embeddings": 512,
    },
    "llama": {
        "model_type": "llama", "vocab_size": 8192, "hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8,
        "num_key_value_heads": 4, "intermediate_size": 2816, "max_position_embeddings": 1024, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "eos_token_id": 1, "pad_token_id": 0,
    },
    "gpt2": {
        "model_type": "gpt2", "vocab_size": 8192, "n_embd": 512, "n_layer": 4, "n_head": 8, "n_positions": 1024, "eos_token_id": 1,
    },
    "qwen2": {
        "model_type": "qwen2", "vocab_size": 8192, "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 2, "intermediate_size": 1408, "max_position_embeddings": 1024, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "tie_word_embeddings": True, "eos_token_id": 1, "pad_token_id": 0,
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """One job."""

    base: str
    algo: str
    rows: int
    tokens: int
    more: Mapping[str, object] = field(default_factory=dict)
    """Further settings by key."""
    cards: int = 1

    def __str__(self) -> str:
        more = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in self.more.items())
        return f"{self.base}, {self.algo}, {self.rows} x {self.tokens}" + (f", {more}" if more else "")

    def sets(self, base: Path) -> list[str]:
        """The job's settings, as --set takes them."""
        task = "classify" if self.base == "bert" else "lm"
        values = {
            "algo": self.algo, "model.base": base, "data.task": task, "data.seq_len": self.tokens,
            "train.batch_size": self.rows, "train.steps": 2, "eval.samples": 0, **self.more,
        }  # fmt: skip
        return [f"{key}={value}" for key, value in values.items()]


CPU: Mapping[str, Case] = {
    "1": Case(base="llama", algo="lora", rows=4, tokens=256),
    "2": Case(base="llama", algo="lora", rows=4, tokens=512, more={"delta.target": "all-linear"}),
    "3": Case(base="llama", algo="full", rows=2, tokens=256),
    "4": Case(base="llama", algo="ia3", rows=4, tokens=256),
    "5": Case(base="llama", algo="adapter", rows=8, tokens=128),
    "6": Case(base="llama", algo="prefix", rows=4, tokens=256, more={"train.accumulate": 2}),
    "7": Case(base="bert", algo="lora", rows=32, tokens=128),
    "8": Case(base="bert", algo="full", rows=32, tokens=128, more={"train.accumulate": 2}),
    "9": Case(base="gpt2", algo="lora", rows=8, tokens=256),
    "10": Case(base="qwen2", algo="lora", rows=8, tokens=256),
}
ASCEND: Mapping[str, Case] = {
    "a": Case(base="llama", algo="lora", rows=4, tokens=512),
    "b": Case(base="llama", algo="full", rows=4, tokens=512, more={"train.accumulate": 4}),
    "c": Case(base="llama", algo="lora", rows=4, tokens=512, more={"parallel.recompute": "full"}),
    "d": Case(base="llama", algo="lora", rows=4, tokens=512, more={"parallel.recompute": "select"}),
    "e": Case(base="llama", algo="full", rows=1, tokens=128, more={"parallel.offload": "optimizer"}),
    "f": Case(base="llama", algo="lora", rows=4, tokens=512, more={"parallel.tp": 2}, cards=2),
    "g": Case(base="llama", algo="lora", rows=4, tokens=512, more={"parallel.tp": 2, "parallel.sequence": "true"}, cards=2),
    "h": Case(base="llama", algo="full", rows=4, tokens=512, more={"parallel.zero": 1}, cards=2),
    "i": Case(base="llama", algo="full", rows=4, tokens=512, more={"parallel.zero": 3}, cards=2),
    "j": Case(base="llama", algo="lora", rows=8, tokens=512, more={"parallel.pp": 2, "parallel.micro_batches": 4}, cards=2),
    "k": Case(base="llama", algo="full", rows=4, tokens=512, more={"parallel.tp": 2, "parallel.zero": 1}, cards=4),
    "l": Case(base="llama", algo="prefix", rows=4, tokens=512),
    "m": Case(base="llama", algo="ia3", rows=4, tokens=512),
    "n": Case(base="bert", algo="lora", rows=8, tokens=256),
    "o": Case(base="bert", algo="adapter", rows=32, tokens=128, more={"parallel.tp": 2}, cards=2),
    "p": Case(base="gpt2", algo="lora", rows=4, tokens=512),
}  # fmt: skip


def small(raw: Mapping[str, object]) -> dict[str, object]:
    """The same net, narrow."""
    narrow = {
        "hidden_size": SMALL_WIDTH, "n_embd": SMALL_WIDTH, "intermediate_size": 2 * SMALL_WIDTH, "vocab_size": 512,
        "num_attention_heads": 4, "n_head": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    return {**raw, **{key: value for key, value in narrow.items() if key in raw}}


def make_job(place: Path, raw: Mapping[str, object], tokens: int) -> None:
    """Write base and data of a job into `place`."""
    from bases import write_base, write_byte_tokenizer

    write_base(place / "base", dict(raw))
    write_byte_tokenizer(place / "base")
    text = "abcdefghijklmnopqrstuvwxyz" * (tokens // 26 + 1)
    rows = [
        {"text": text[: tokens - 1], **({"label": i % 2} if raw["model_type"] == "bert" else {})} for i in range(256)
    ]
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def run(case: Case, place: Path) -> int:
    """Train, and return the peak resident size of the process."""
    from scaling import peak_of_tree

    line = [sys.executable, "-m", "petrun", "train", "--device", "cpu", "--data", "rows.jsonl", "--out", "run"]
    for one in case.sets(Path("base")):
        line += ["--set", one]
    environment = {**os.environ, "XDG_CACHE_HOME": str(place / "cache"), "PYTHONPATH": str(ROOT)}
    with open(place / "told.txt", "w", encoding="utf-8") as told:
        process = subprocess.Popen(line, cwd=place, env=environment, stdout=told, stderr=told)
        peak = 0
        while process.poll() is None:
            peak = max(peak, peak_of_tree(process.pid))
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(line)}: code {process.returncode}\n{(place / 'told.txt').read_text()[-2000:]}")
    return peak


def planned_on_cpu(case: Case, place: Path) -> MemoryPlan:
    """The plan of a job that `make_job` wrote."""
    from petrun.config.load import load_run_config
    from petrun.parallel import context
    from petrun.training.setup.memory_check import memory_of_run
    from petrun.training.setup.resolve import resolve

    sets = [*case.sets(place / "base"), f"data.path={place / 'rows.jsonl'}"]
    return memory_of_run(resolve(load_run_config(None, {}, sets, embedded=None), None, context.setup("cpu"), 1)).plan()


def on_cpu(number: str, case: Case) -> str:
    """Measure one case, and return its line of the table."""
    found: list[tuple[int, MemoryPlan]] = []
    for raw, tokens in ((BASES[case.base], case.tokens), (small(BASES[case.base]), SMALL_TOKENS)):
        with tempfile.TemporaryDirectory() as folder:
            one = Case(
                base=case.base, algo=case.algo, rows=case.rows if not found else 1, tokens=tokens, more=case.more
            )
            make_job(Path(folder), raw, tokens)
            found.append((run(one, Path(folder)), planned_on_cpu(one, Path(folder))))
    (measured, plan), (floor, floor_plan) = found
    model = measured - (floor - (floor_plan.total - floor_plan.process))
    own = plan.total - plan.process
    return (
        f"| {number} | {case} | {plan.total / MIB:,.0f} | {measured / MIB:,.0f} | {plan.total / measured:.3f} "
        f"| {own / MIB:,.0f} | {model / MIB:,.0f} | {own / model:.3f} |"
    )


def on_ascend(number: str, case: Case) -> str:
    """Rehearse one case, and return its line of the table."""
    from petrun.config.load import load_run_config
    from petrun.parallel.context import Device
    from petrun.training.setup.memory_plan import memory_of
    from petrun.training.setup.resolve_layout import resolve_layout

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        base.mkdir()
        (base / "config.json").write_text(json.dumps(BASES[case.base]))
        line = [
            sys.executable,
            "-m",
            "petrun",
            "rehearse",
            "--cards",
            str(case.cards),
            "--json",
            f"{folder}/found.json",
        ]
        for one in case.sets(base):
            line += ["--set", one]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
        found = max(rank["peak_bytes"] for rank in json.loads((Path(folder) / "found.json").read_text())["ranks"])
        config = load_run_config(None, {}, case.sets(base), embedded=None).config
        layout = resolve_layout(config, case.cards)
        plan = memory_of(config, Device("ascend", "bfloat16", None), layout, case.tokens, None).plan()
    return f"| {number} | {case} | {plan.total / MIB:,.0f} | {found / MIB:,.0f} | {plan.total / found:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=["cpu", "ascend"], default=["cpu", "ascend"])
    parser.add_argument("--cases", nargs="+", help="names of cases: 1 to 10, a to p")
    a = parser.parse_args()
    for part, cases, one in (("cpu", CPU, on_cpu), ("ascend", ASCEND, on_ascend)):
        if part not in a.part:
            continue
        heads = ["", "job", "planned, MiB", "measured" if part == "cpu" else "rehearsed", "ratio"]
        heads += ["of it the model, planned", "measured", "ratio"] if part == "cpu" else []
        print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
        for number, case in cases.items():
            if not a.cases or number in a.cases:
                print(one(number, case), flush=True)


if __name__ == "__main__":
    main()
