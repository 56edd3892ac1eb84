"""Real processes on the CPU: as many ranks as one likes train what one rank trains on the same global batch."""

import json
import subprocess
import sys

import numpy as np
import pytest

from petrun.checkpoint.delta import read_delta
from petrun.cluster.ports import free_port
from petrun.cluster.ranks import Cluster, rank_environment, scheduler_environment
from tests.conftest import ROOT
from tests.parallel.processes import TaggedProcesses
from tests.program import call
from tests.tiny import REVIEWS, write_base, write_rows

GLOBAL = 4
LENGTHS = (3, 1, 9, 2, 7, 5, 4, 1, 6, 8, 2)
"""Eleven rows: the last batch of an epoch has three, which two ranks share unevenly and of which a fourth gets nothing."""
RUNS = {
    "lora": "--base llama --data rows.jsonl --dropout 0.3 --epochs 2 --eval-data few.jsonl --set eval.batch_size=3 --set train.patience=9",
}
MORE = {
    "prompt": "--base gpt2 --data few.jsonl --algo prompt --tokens 3 --steps 3 --accumulate 2 --eval-data three.jsonl "
    "--set eval.batch_size=8 --set eval.metrics=[exact_match] --set eval.max_new_tokens=3",
    "adalora+r_drop": "--base bert --data reviews.jsonl --algo adalora+r_drop --rank 2 --dropout 0.2 --steps 8",
    "ptuning2": "--base llama --data rows.jsonl --algo ptuning2 --tokens 3 --steps 3",
    # What mismatched answers gained is a mean over the rows of all ranks.
    "kto": "--base llama --data marked.jsonl --loss kto --epochs 2 --eval-data marked.jsonl",
    "packed": "--base llama --data rows.jsonl --pack --seq-len 24 --dropout 0.2 --epochs 3",
    # The gradient of a key's bias is 0 but for rounding, which Adam would blow up to a whole step: eps keeps it small.
    "full": "--base gpt2 --data rows.jsonl --algo full --steps 3 --no-shuffle --set optim.eps=1e-3",
}


def command(name, flags, ranks, out):
    line = ["train", *flags.split(), "--lr", "0.01", "--batch-size", str(GLOBAL // ranks), "--set", "data.cache=false"]
    # Sequences that --pack fills have one length.
    line += ["--set", "eval.samples=0", *([] if "--pack" in line else ["--set", "data.buckets=1"])]
    return [*line, "--out", f"{out}/{name}"]


def run_ranks(folder, runs, ranks):
    """All runs as a job of that many processes and a scheduler. Returns what each printed; `folder`/`ranks` holds the runs."""
    plan = folder / f"{ranks}.json"
    plan.write_text(json.dumps([command(name, flags, ranks, ranks) for name, flags in runs.items()]))
    processes = TaggedProcesses()
    base = {
        **processes.environment,
        "PYTHONPATH": str(ROOT),
        "MS_RETRY_INTERVAL_LOWER": "1",
        "MS_RETRY_INTERVAL_UPPER": "1",
    }
    cluster, port = Cluster(cards=ranks), free_port()
    environments = [scheduler_environment(base, cluster, port)]
    environments += [rank_environment(base, cluster, rank, port) for rank in range(ranks)]
    files = [(folder / f"{ranks}-{k}.log").open("w+") for k in range(ranks + 1)]
    try:
        members = [
            subprocess.Popen([sys.executable, "-m", "tests.parallel.ranks", str(plan)], env=env, cwd=folder, stdout=file, stderr=file)
            for env, file in zip(environments, files, strict=True)
        ]  # fmt: skip
        codes = [member.wait(timeout=400) for member in members]
        printed = [(folder / f"{ranks}-{k}.log").read_text() for k in range(ranks + 1)]
        assert codes == [0] * (ranks + 1), "\n".join(text[-2000:] for text in printed)
    finally:
        processes.kill()
        for file in files:
            file.close()
    return printed


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    write_base(folder / "bert", "bert")
    write_base(folder / "gpt2", "gpt2", n_layer=1)
    write_base(folder / "llama", "llama", num_hidden_layers=1, attention_dropout=0.2)
    rows = [{"prompt": "a" * (n % 4 + 1), "completion": "b" * n} for n in LENGTHS]
    write_rows(folder / "rows.jsonl", rows)
    write_rows(folder / "few.jsonl", rows[:4])
    write_rows(folder / "marked.jsonl", [{**row, "label": n % 3 > 0} for n, row in enumerate(rows)])
    write_rows(folder / "three.jsonl", rows[:3])
    write_rows(folder / "reviews.jsonl", REVIEWS)
    return folder


def alone(place, runs):
    """The same runs in this process, which is the only rank."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name, flags in runs.items():
            if not (place / "1" / name).exists():
                assert call(command(name, flags, 1, 1)) == 0


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def hold_to_one_rank(one, many):
    """Step by step the same log, and the same deltas."""
    first, second = log_of(one), log_of(many)
    assert len(first) == len(second) > 2
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - {"seconds", "tokens_per_second", "memory", "evaluation"}:
            np.testing.assert_allclose(b[key], a[key], rtol=0, atol=1e-5, err_msg=f"{key} of step {a['step']}")
        for key, value in a.get("evaluation", {}).items():
            np.testing.assert_allclose(b["evaluation"][key], value, rtol=1e-5, atol=1e-5, err_msg=key)
    files = sorted(path.name for path in one.iterdir())
    assert files == sorted(path.name for path in many.iterdir())
    for file in (name for name in files if name.endswith(".ckpt")):
        left, right = read_delta(one / file), read_delta(many / file)
        assert left.manifest.step == right.manifest.step and left.shapes.keys() == right.shapes.keys()
        for name in left.shapes:
            np.testing.assert_allclose(right.tensors[name], left.tensors[name], rtol=0, atol=1e-5, err_msg=name)


def test_two_ranks_train_what_one_rank_trains(place):
    """LoRA with dropout on its input and on attention, evaluated after every epoch, on two batches that the ranks share."""
    printed = run_ranks(place, RUNS, 2)
    alone(place, RUNS)
    for name in RUNS:
        hold_to_one_rank(place / "1" / name, place / "2" / name)
    scheduler, first, second = printed
    assert "batches of 4 (2 on each of 2 ranks)" in first and "saved 2/lora" in first
    assert "step" not in second and "step" not in scheduler, "only the first rank speaks"
    for in_graph in (False, True):
        # Who failed goes through MindSpore's own sum.
        assert f"ended with: rank 1 failed: the disk of rank 1 is full (in a graph: {in_graph})\n" in first
        assert f"ended with: the disk of rank 1 is full\nand more (in a graph: {in_graph})\n" in second


@pytest.mark.all_only
@pytest.mark.parametrize("ranks", [2, 4])
def test_any_ranks_train_what_one_rank_trains(place, ranks):
    """Four ranks: one of them has no row of an epoch's last batch. R-Drop's masks, AdaLoRA's budget, packed rows, every parameter; and
    a prompt over accumulated batches, evaluated on one batch, of which only the first rank has rows, and by answers, which they share.
    """
    runs = MORE if ranks == 2 else {**RUNS, **MORE}
    _, *printed = run_ranks(place, runs, ranks)
    # The base of a random prompt is scored before the prompt is attached, by the same shares as any other net.
    for rank, rows in zip(printed, (3, *[0] * (ranks - 1)), strict=True):
        assert f"scored [{rows}] of 3 rows of the base\n" in rank
    alone(place, runs)
    for name in runs:
        hold_to_one_rank(place / "1" / name, place / str(ranks) / name)
