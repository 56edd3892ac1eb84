"""How long MindSpore compiles the first step of LoRA training, or of generation, by the number of layers: almost all is its front end.

    python scripts/bench/compile_time.py [--family llama] [--layers 8 16 32] [--targets default all-linear]
        [--part step] [--seed 0]

Random nets with hidden 64, rank 8, batches of 4 rows x 32 tokens; each case in a process of its own. Printed: seconds from the call of
the first step to its loss, of this process's processors (user + system: what another process takes does not count) and of the clock;
seconds of the fastest later step; the ratio of the processors' seconds to those of the case before. Growth in proportion to the layers,
beside a part that does not depend on them, makes a ratio of at most 2 where the layers double.

`--part forward` and `--part gradient` compile less than the whole step, to tell where its time goes; `prefill` and `decode` are the two
graphs of an answer. `--part pipeline` compiles rank 0 of two stages for Ascend with the rehearsal's stub of CANN; it takes no step.
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
STAGES, MICRO_BATCHES = 2, 4
PARTS = ("forward", "gradient", "step", "pipeline", "prefill", "decode")
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


def build(family: str, layers: int, targets: str, seed: int) -> tuple[Any, Any, tuple[Any, ...]]:
    """A net with random weights and LoRA, its sites, and the parameters that train."""
    import mindspore as ms
    import numpy as np

    from petrun.delta import METHODS
    from petrun.delta.lora import LoraConfig
    from petrun.graph.freeze import freeze_all_but
    from petrun.models.families import FAMILIES

    record = FAMILIES[family]
    parsed = record.parse(config(family, layers))
    net, sites = record.build(parsed), record.sites(parsed)
    rng = np.random.default_rng(seed)
    for parameter in net.get_parameters():
        ones = parameter.name.endswith("norm.weight")
        parameter.set_data(ms.Tensor((ones + 0.05 * rng.standard_normal(parameter.shape)).astype(np.float32)))
    settings = LoraConfig(rank=8, target=None if targets == "default" else targets)
    owned = METHODS["lora"].attach(net, settings, sites, seed)
    return net, sites, tuple(freeze_all_but(net, owned).parameters)


def training(family: str, net: Any, sites: Any, parameters: tuple[Any, ...], part: str, seed: int) -> Callable[[], Any]:
    """Return what takes a step, or a part of it, and gives the loss or a tuple that begins with it."""
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor, nn

    from petrun.models.families import FAMILIES
    from petrun.train.adamw import AdamW
    from petrun.train.loss import SupervisedLoss
    from petrun.train.schedules import Schedule
    from petrun.train.step import TrainStep

    class Gradient(nn.Cell):
        """Loss and gradients, without clipping and update."""

        def __init__(self, step: TrainStep) -> None:
            super().__init__(auto_prefix=False)
            self.gradient = step.gradient

        def construct(self, *arguments: Any) -> Any:
            return self.gradient(*arguments)

    schedule = Schedule(kind="constant", peak=1e-3, warmup_steps=0, total_steps=10**6)
    optimizer = AdamW(parameters, schedule, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01)
    net.set_train(True)
    rng, shape = np.random.default_rng(seed), (ROWS, TOKENS)
    values = {
        "input_ids": rng.integers(1, VOCABULARY, shape),
        "segment_ids": np.ones(shape),
        "position_ids": np.tile(np.arange(TOKENS), (ROWS, 1)),
        "token_type_ids": np.zeros(shape),
    }
    inputs = [Tensor(values[name].astype(np.int32)) for name in FAMILIES[family].inputs]
    classes, answers = (2, ROWS) if family == "bert" else (VOCABULARY, shape)
    labels = Tensor(rng.integers(0, classes, answers).astype(np.int32))
    arguments = (Tensor(float(labels.size), ms.float32), labels, *inputs)
    loss: Any = SupervisedLoss(net)
    if part == "pipeline":
        return partial(compile_stage, net, sites, loss, optimizer, arguments)
    step: Any = TrainStep(loss, optimizer)
    cells: dict[str, Any] = {"step": partial(step, True), "gradient": Gradient(step), "forward": loss}
    return partial(cells[part], *arguments)


def compile_stage(net: Any, sites: Any, loss: Any, optimizer: Any, arguments: tuple[Any, ...]) -> None:
    """Compile the first stage's step of a pipeline."""
    from petrun.parallel import plan
    from petrun.parallel.layout import Layout
    from petrun.train.pipelined import PipelineStep, Stage

    plan.apply(net, sites, Layout(pp=STAGES, micro_batches=MICRO_BATCHES), loss)
    step = PipelineStep(
        loss, optimizer, stage=Stage(count=STAGES, copies=1, splits_state=False), micro_batches=MICRO_BATCHES, clip=1.0
    )
    step.compile(*step.arguments(True, *arguments))


def generation(net: Any, part: str, seed: int) -> Callable[[], Any]:
    """Return what runs the prompts, or one token of each row against their caches; its first output is the logits."""
    import numpy as np
    from mindspore import Tensor

    from petrun.models.decoding import DecodeStep, PrefillStep

    net.set_train(False)
    ids = Tensor(np.random.default_rng(seed).integers(1, VOCABULARY, (ROWS, TOKENS)).astype(np.int32))
    lengths = Tensor(np.full(ROWS, TOKENS, np.int32))
    caches = net.open_caches(ROWS, 2 * TOKENS)
    prefill: Any = PrefillStep(net)
    prompts = partial(prefill, ids, lengths, Tensor(np.arange(ROWS, dtype=np.int32)), *caches)
    if part == "prefill":
        return prompts
    written = prompts()[1:]
    decode: Any = DecodeStep(net)
    return partial(decode, ids[:, :1], lengths, *(caches if net.writes_in_place() else written))


def measure(family: str, layers: int, targets: str, part: str, seed: int) -> dict[str, float]:
    """Build the net, take the first step and a few more."""
    from petrun.parallel.context import connect, setup, split_operators
    from petrun.parallel.layout import Layout

    if part == "pipeline":
        setup("ascend", "bfloat16")
        connect("a rehearsal")
        split_operators(Layout(pp=STAGES, micro_batches=MICRO_BATCHES), 0)
    else:
        setup("cpu")
    net, sites, parameters = build(family, layers, targets, seed)
    generates = part in ("prefill", "decode")
    call = generation(net, part, seed) if generates else training(family, net, sites, parameters, part, seed)

    def one() -> tuple[float, float, float]:
        processors, clock = processor_seconds(), time.perf_counter()
        found = call()
        loss = 0.0 if found is None else float(found[0].asnumpy().ravel()[0])
        return processor_seconds() - processors, time.perf_counter() - clock, loss

    processors, clock, loss = one()
    later = 0.0 if part == "pipeline" else min(one()[1] for _ in range(LATER_STEPS))
    return {"parameters": len(parameters), "processors": processors, "clock": clock, "later": later, "loss": loss}


def environment(part: str) -> dict[str, str]:
    """Variables of a case's process."""
    if part != "pipeline":
        return {"GLOG_v": "3", **os.environ, **WITHOUT_CACHE}
    from petrun.config.load import cache_folder
    from petrun.rehearsal.stub_cann import ensure_stub
    from petrun.rehearsal.stub_cann import environment as of_rank

    return {"GLOG_v": "3", **of_rank(ensure_stub(cache_folder()), 0, STAGES, 0), **WITHOUT_CACHE}


def case(family: str, layers: int, targets: str, part: str, seed: int) -> dict[str, float]:
    """What a process of its own measures."""
    command = [sys.executable, __file__, "--worker", "--family", family, "--layers", str(layers)]
    done = subprocess.run(
        [*command, "--targets", targets, "--part", part, "--seed", str(seed)],
        env=environment(part),
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
    parser.add_argument("--part", choices=PARTS, default="step")
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
