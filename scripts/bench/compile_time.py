"""How long the first step of LoRA training takes, by the number of layers: almost all of it is MindSpore's front end.

    python scripts/bench/compile_time.py [--family llama] [--layers 8 16 32] [--targets default all-linear]
        [--part step] [--seed 0]

Random nets with hidden 64, rank 8, batches of 4 rows x 32 tokens; each case in a process of its own. Printed: seconds from the call of
the first step to its loss, of this process's processors (user + system: what another process takes does not count) and of the clock;
seconds of the fastest later step; the ratio of the processors' seconds to those of the case before. Growth in proportion to the layers,
beside a part that does not depend on them, makes a ratio of at most 2 where the layers double. `--part forward` and `--part gradient`
compile less than the whole step, to tell where its time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

ROWS, TOKENS, VOCABULARY, HIDDEN, LATER_STEPS = 4, 32, 256, 64, 3
# Where nothing is compiled yet: a compile cache that is on would hide what is measured.
WITHOUT_CACHE = {"MS_COMPILER_CACHE_ENABLE": "0"}


def config(family: str, layers: int) -> dict[str, Any]:
    """config.json of a small net."""
    sizes = {"vocab_size": VOCABULARY}
    if family == "gpt2":
        return {**sizes, "model_type": "gpt2", "n_embd": HIDDEN, "n_layer": layers, "n_head": 4, "n_positions": 64}
    sizes |= {
        "hidden_size": HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * HIDDEN,
        "max_position_embeddings": 64,
    }
    if family == "bert":
        return {**sizes, "model_type": "bert"}
    return {**sizes, "model_type": "llama", "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "hidden_act": "silu"}


def processor_seconds() -> float:
    """User and system time of this process so far."""
    spent = os.times()
    return spent.user + spent.system


def part_of(step: Any, part: str) -> Callable[..., Any]:
    """Return what is called with (denominator, targets, *inputs), and gives the loss or a tuple that begins with it."""
    from mindspore import nn

    class Gradient(nn.Cell):
        """Loss and gradients, without clipping and update."""

        def __init__(self) -> None:
            super().__init__(auto_prefix=False)
            self.gradient = step.gradient

        def construct(self, *arguments: Any) -> Any:
            return self.gradient(*arguments)

    if part == "step":
        return partial(step, True)
    return Gradient() if part == "gradient" else step.loss


def measure(family: str, layers: int, targets: str, part: str, seed: int) -> dict[str, float]:
    """Build the net, take the first step and a few more."""
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor

    from petrun.delta import METHODS
    from petrun.delta.lora import LoraConfig
    from petrun.graph.freeze import freeze_all_but
    from petrun.models.families import FAMILIES
    from petrun.parallel.context import setup
    from petrun.train.adamw import AdamW
    from petrun.train.loss import SupervisedLoss
    from petrun.train.schedules import Schedule
    from petrun.train.step import TrainStep

    setup("cpu")
    record = FAMILIES[family]
    parsed = record.parse(config(family, layers))
    net, sites = record.build(parsed), record.sites(parsed)
    rng = np.random.default_rng(seed)
    for parameter in net.get_parameters():
        ones = parameter.name.endswith("norm.weight")
        parameter.set_data(Tensor((ones + 0.05 * rng.standard_normal(parameter.shape)).astype(np.float32)))
    owned = METHODS["lora"].attach(
        net, LoraConfig(rank=8, target=None if targets == "default" else targets), sites, seed
    )
    optimizer = AdamW(
        freeze_all_but(net, owned).parameters,
        Schedule(kind="constant", peak=1e-3, warmup_steps=0, total_steps=10**6),
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=0.01,
    )
    net.set_train(True)
    call = part_of(TrainStep(SupervisedLoss(net), optimizer), part)
    shape = (ROWS, TOKENS)
    values = {
        "input_ids": rng.integers(1, VOCABULARY, shape),
        "segment_ids": np.ones(shape),
        "position_ids": np.tile(np.arange(TOKENS), (ROWS, 1)),
        "token_type_ids": np.zeros(shape),
    }
    inputs = [Tensor(values[name].astype(np.int32)) for name in record.inputs]
    classes, answers = (2, ROWS) if family == "bert" else (VOCABULARY, shape)
    labels = Tensor(rng.integers(0, classes, answers).astype(np.int32))
    denominator = Tensor(float(labels.size), ms.float32)

    def one() -> tuple[float, float, float]:
        processors, clock = processor_seconds(), time.perf_counter()
        loss = float(call(denominator, labels, *inputs)[0].asnumpy())
        return processor_seconds() - processors, time.perf_counter() - clock, loss

    processors, clock, loss = one()
    later = min(one()[1] for _ in range(LATER_STEPS))
    return {
        "parameters": len(optimizer.parameters),
        "processors": processors,
        "clock": clock,
        "later": later,
        "loss": loss,
    }


def case(family: str, layers: int, targets: str, part: str, seed: int) -> dict[str, float]:
    """What a process of its own measures."""
    command = [sys.executable, __file__, "--worker", "--family", family, "--layers", str(layers)]
    done = subprocess.run(
        [*command, "--targets", targets, "--part", part, "--seed", str(seed)],
        env={"GLOG_v": "3", **os.environ, **WITHOUT_CACHE},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{family} with {layers} layers, {targets}: code {done.returncode}\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=["bert", "gpt2", "llama"], nargs="+", default=["llama"])
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument(
        "--targets",
        nargs="+",
        default=["default", "all-linear"],
        help="what --target of petrun train takes, or default",
    )
    parser.add_argument("--part", choices=["forward", "gradient", "step"], default="step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.worker:
        print(json.dumps(measure(a.family[0], a.layers[0], a.targets[0], a.part, a.seed)))
        return
    print(f"| family | targets | layers | trained tensors | first {a.part}, processors | clock | ratio | later step |")
    print("|---|---|---|---|---|---|---|---|")
    for family in a.family:
        for targets in a.targets:
            before = None
            for layers in a.layers:
                found = case(family, layers, targets, a.part, a.seed)
                ratio = f"{found['processors'] / before:.2f}" if before else ""
                before = found["processors"]
                print(
                    f"| {family} | {targets} | {layers} | {found['parameters']:.0f} | {found['processors']:.1f} s "
                    f"| {found['clock']:.1f} s | {ratio} | {found['later']:.3f} s |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
