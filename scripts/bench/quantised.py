"""Memory and time of training on a base in full precision, in 8 and in 4 bits. Prints the ratios; each row is a process of its own.

python scripts/bench/quantised.py                 # 26.8 M parameters, LoRA on q and v
python scripts/bench/quantised.py --size 1b       # synthetic 1.1 B parameters, loading alone
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FORMS = ("none", "int8", "nf4")
SIZES = {
    "26.8m": {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 10,
        "num_attention_heads": 6,
        "vocab_size": 4000,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "vocab_size": 8000,
    },
}


def write_base(folder: Path, size: str) -> None:
    """Write a Llama of this size with random weights, a tensor at a time."""
    from petrun.models.factory import outline_model
    from petrun.tensors import TensorEntry, write_safetensors

    heads = SIZES[size]["num_attention_heads"]
    config = {"model_type": "llama", "num_key_value_heads": heads, "max_position_embeddings": 256, "hidden_act": "silu"}
    config |= {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, **SIZES[size]}
    (folder / "config.json").write_text(json.dumps(config))
    outline = outline_model(folder, compute_dtype="float32")
    shapes = {p.name: tuple(p.shape) for p in outline.net.get_parameters()}

    def entry(number: int, ours: str, stored: str) -> TensorEntry:
        def load() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
            rng = np.random.default_rng(number)
            shape = shapes[ours]
            return np.ones(shape, np.float32) if len(shape) == 1 else 0.02 * rng.standard_normal(shape, np.float32)

        return TensorEntry(stored, shapes[ours], "float32", load)

    entries = [entry(i, ours, known.name) for i, (ours, known) in enumerate(outline.names.items())]
    write_safetensors(folder / "model.safetensors", entries, {"format": "pt"})


def one(folder: Path, form: str, steps: int, rows: int, tokens: int) -> None:
    """Load the base in this form and train some steps. Prints JSON."""
    import mindspore as ms
    from mindspore import Tensor

    from petrun.delta import find_method
    from petrun.graph.freeze import freeze_all_but
    from petrun.models.factory import ModelSource, load_model
    from petrun.train.adamw import AdamW
    from petrun.train.loss import SupervisedLoss
    from petrun.train.schedules import Schedule
    from petrun.train.step import TrainStep

    before = resident()
    loaded = load_model(ModelSource(base=folder, quantisation=None if form == "none" else form))
    held = sum(int(np.prod(p.shape)) * int(p.itemsize) for p in loaded.net.get_parameters())
    after = resident()
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times, losses = [], []
    if steps:
        method = find_method("lora")
        config = method.config()
        owned = method.attach(loaded.net, config, loaded.sites, 0)
        trainable = freeze_all_but(loaded.net, owned, method.fixed)
        schedule = Schedule(kind="constant", peak=1e-3, warmup_steps=0, total_steps=99)
        optimizer = AdamW(trainable.parameters, schedule, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01)
        step = TrainStep(SupervisedLoss(loaded.net), optimizer)
        loaded.net.set_train(True)
        ids = np.random.default_rng(0).integers(5, 3000, (rows, tokens)).astype(np.int32)
        table = {
            "input_ids": ids,
            "segment_ids": np.ones_like(ids),
            "position_ids": np.tile(np.arange(tokens, dtype=np.int32), (rows, 1)),
        }
        inputs = [Tensor(np.roll(ids, -1, 1)), *(Tensor(table[name]) for name in loaded.inputs)]
        for _ in range(steps):
            began = time.perf_counter()
            losses.append(float(step(True, Tensor(float(ids.size), ms.float32), *inputs)[0].asnumpy()))
            times.append(time.perf_counter() - began)
    print(
        json.dumps(
            {
                "held": held,
                "loading": after - before,
                "peak": peak - before,
                "step": sorted(times[2:])[len(times[2:]) // 2] if steps else None,
                "losses": losses[:5],
            }
        )
    )


def resident() -> int:
    """Bytes of this process in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="26.8m")
    parser.add_argument("--steps", type=int, default=None, help="training steps of each form; default 12, and 0 for 1b")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "FORM"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    steps = args.steps if args.steps is not None else (0 if args.size == "1b" else 12)
    if args.one:
        one(Path(args.one[0]), args.one[1], steps, args.rows, args.tokens)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_base(folder, args.size)
        rows = {}
        for form in FORMS:
            command = [sys.executable, __file__, "--one", str(folder), form, "--steps", str(steps)]
            command += ["--rows", str(args.rows), "--tokens", str(args.tokens)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows[form] = json.loads(done.stdout.strip().splitlines()[-1])
    full = rows["none"]
    print(f"{args.size}, LoRA rank 8 on q and v, {args.rows} x {args.tokens} tokens; ratios to full precision")
    print("form   weights MB          memory of loading MB   peak of loading MB    step s")
    for form, row in rows.items():
        cells = [f"{row[key] / 1e6:9.1f} ({row[key] / full[key]:.3f})" for key in ("held", "loading", "peak")]
        timed = f"{row['step']:.3f} ({row['step'] / full['step']:.2f})" if row["step"] else "-"
        print(f"{form:5}  {'   '.join(cells)}   {timed}")
    if steps:
        print("losses:", {form: [round(x, 5) for x in row["losses"]] for form, row in rows.items()})


if __name__ == "__main__":
    main()
