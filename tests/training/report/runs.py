"""Run folders as a training run leaves them, written without one."""

import json
import math

RECEIPT = {
    "held_out": None,
    "held_in": {"rows": [0, 1], "loss": {"before": 3.0, "after": 0.25}, "largest_change": 2.9},
    "delta": {
        "unmoved": [],
        "layers": [{"name": f"layers.{n}.attn.q", "kind": "update", "norm": n, "base": 2.0, "ratio": n / 2} for n in range(30)],
    },
    "steps": {"done": 6, "updates": 6, "largest_gradient_norm": 4.0, "passes": 3.0},
    "targets": {"asked": {}, "excluded": [], "layers": 30, "matched": {"q": 30}},
    "rows": {"train": {"read": 9, "used": 8, "repeated": 0, "cut": {}, "nothing_left_to_learn": 0, "dropped": {"empty": 1},
                       "tokens": 64, "supervised_tokens": 32, "supervised_share": 0.5, "eos_rows": 8}},
    "texts": [{"prompt": "<script>alert('é')</script>", "reference": "a & b", "before": "<b>", "after": "a & b"}],
    "failures": [],
}  # fmt: skip


def write_run(folder, steps=6, finished=True, lr=0.1, **settings):
    """A run of so many steps, whose loss halves with each. `settings`: top-level keys of run.yaml beside the usual ones."""
    folder.mkdir(parents=True)
    values = {
        "algo": "lora",
        "model": {"base": None},
        "data": {"path": ["rows.jsonl"]},
        "optim": {"lr": lr},
        "train": {"steps": None, "epochs": None},
        "out": {"dir": str(folder)},
        **settings,
    }
    (folder / "run.yaml").write_text(json.dumps({**values, "origins": {"optim.lr": "--lr"}}))
    log = [{"step": 0, "epoch": 0.0, "evaluation": {"loss": 4.0, "exact_match": 0.0}}]
    for step in range(1, steps + 1):
        log.append(record(step, 4.0 * 0.5**step))
    log.append({"step": steps, "epoch": steps / 2, "evaluation": {"loss": 0.1, "exact_match": 0.5}})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    if finished:
        results = {"base": log[0]["evaluation"], "delta": log[-1]["evaluation"], "receipt": RECEIPT, "seconds": 61.0}
        more = {"trainable_parameters": 10, "all_parameters": 1000, "delta_bytes": 2048}
        (folder / "results.json").write_text(json.dumps({**results, **more}))
    return folder


def record(step, loss):
    """A line of the log, of the second half of an epoch for an even step."""
    return {
        "step": step,
        "epoch": step / 2,
        "loss": None if math.isnan(loss) else loss,
        "lr": 0.1 / step,
        "grad_norm": 1.0,
        "tokens": 100,
        "tokens_per_second": 50.0,
        "seconds": 2.0,
        "memory": 2**30,
    }
