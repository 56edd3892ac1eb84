"""Times switching between deltas in one compiled graph, beside attaching one anew and beside merging it; counts compilations.

    python scripts/bench/switch.py [--deltas 4] [--rank 8] [--base FOLDER] [--out FILE]

Deltas with random values: LoRA of every linear layer, (IA)^3 and a prompt among them. Reported: milliseconds to choose another adapter
(median and largest of 200); an answer of 8 tokens after a switch, beside one without (the fastest of 20, as other work on the machine
slows them); the same with one delta attached alone, whose net has to be compiled; a delta of the same shape put into that net; and
W + s B A put into a net.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor

from petrun.assets import base_folder
from petrun.checkpoint.delta import BaseIdentity, Manifest, read_delta, save_delta
from petrun.delta import METHODS
from petrun.evaluate.generate import TextGenerator
from petrun.graph.compilations import compilations
from petrun.inference.assembly import attach, attach_delta, set_delta
from petrun.inference.generation.session import Decoding, Session
from petrun.models.factory import load_model
from petrun.parallel.context import setup

PROMPT = "Extract the order.\nHi, put us down for 45 cotton shirts, to be sent to Milan. We pay 43 pounds per piece."
FEW = Decoding(max_new_tokens=8)


def make(folder: Path, base: Path, number: int, rank: int) -> Path:
    """The number-th delta: LoRA, (IA)^3, prompt, LoRA of twice the rank, LoRA, ..."""
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("lora", {"rank": rank, "target": ("all-linear",)}),
        ("ia3", {}),
        ("prompt", {"tokens": 8}),
        ("lora", {"rank": 2 * rank, "target": ("all-linear",)}),
    ]
    algo, settings = kinds[number % 4]
    loaded = load_model(base, task="instruct")
    config = METHODS[algo].config(**settings)
    owned = attach(loaded, METHODS[algo], config, 0, ()).owned
    rng = np.random.default_rng(number)
    values = {
        p.name: (p.asnumpy() + 0.05 * rng.normal(size=p.shape)).astype(np.float32)
        for p in loaded.net.get_parameters()
        if p.name in owned
    }
    manifest = Manifest(
        algo=algo,
        config=config.model_dump(mode="json"),
        family=loaded.family,
        base=BaseIdentity(digest=loaded.base_digest),
    )
    path = folder / f"{algo}-{number}.ckpt"
    save_delta(path, values, manifest)
    return path


def timed(work: Any) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    work()
    return 1000.0 * (time.perf_counter() - began)


def switching(base: Path, paths: list[Path]) -> dict[str, Any]:
    session = Session.open(str(base), [str(path) for path in paths])
    with compilations() as count:
        first = timed(lambda: session.generate([PROMPT], how=FEW))
        compiled = count.graphs
        names = [*session.names, "off"]
        switches, answers, same = [], [], []
        for n in range(200):
            # Outside of the answer: its own first step would find the adapter index set already.
            session.use(names[n % len(names)])
            index = session.multi_adapter.index(session.current)
            switches.append(timed(lambda index=index: session.multi_adapter.select([index])))
        for n in range(20):
            session.use(names[n % len(names)])
            answers.append(timed(lambda: session.generate([PROMPT], how=FEW)))
            same.append(timed(lambda: session.generate([PROMPT], how=FEW)))
        return {
            "first_answer_with_compiling_ms": first,
            "graphs_compiled_for_it": compiled,
            "switch_ms_median": statistics.median(switches),
            "switch_ms_largest": max(switches),
            "answer_after_a_switch_ms": min(answers),
            "answer_without_a_switch_ms": min(same),
            "graphs_compiled_by_220_switches": count.graphs - compiled,
        }


def attaching(base: Path, path: Path, prompt: list[int]) -> dict[str, Any]:
    """A delta attached to a net, which then has to be compiled; and one of the same shape put into it later."""
    delta = read_delta(path)
    with compilations() as count:
        began = time.perf_counter()
        loaded = load_model(base, task="instruct")
        assembled = attach_delta(loaded, delta)
        set_delta(assembled, delta)
        attached = 1000.0 * (time.perf_counter() - began)
        writer = TextGenerator(assembled.loaded.net, eos_ids=(), steady=True)
        answer = timed(lambda: writer([prompt], 8))
        return {
            "load_and_attach_ms": attached,
            "its_first_answer_ms": answer,
            "its_next_answers_ms": min(timed(lambda: writer([prompt], 8)) for _ in range(20)),
            "graphs_compiled": count.graphs,
            "values_of_the_same_shape_ms": statistics.median(
                timed(lambda: set_delta(assembled, delta)) for _ in range(20)
            ),
        }


def merging(base: Path, path: Path) -> dict[str, Any]:
    """W + s B A for every layer, put into a net that is compiled."""
    delta = read_delta(path)
    loaded = load_model(base, task="instruct")
    method = METHODS[delta.algo]
    config = method.config.model_validate(delta.config)
    assert method.merge is not None
    tensors = {name: delta.tensors[name] for name in delta.tensors}
    values = {p.name: p.asnumpy().astype(np.float32) for p in loaded.net.get_parameters()}

    def merge() -> None:
        assert method.merge is not None
        update = method.merge(config, tensors)
        for p in loaded.net.get_parameters():
            merged = update(p.name, values[p.name])
            if merged is not values[p.name]:
                p.set_data(Tensor(merged.astype(np.float32), p.dtype))

    return {"merge_into_the_net_ms": statistics.median(timed(merge) for _ in range(10))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deltas", type=int, default=4)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--base", type=Path, default=base_folder())
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()
    setup("cpu")
    with tempfile.TemporaryDirectory() as folder:
        paths = [make(Path(folder), args.base, n, args.rank) for n in range(args.deltas)]
        figures = {
            **switching(args.base, paths),
            **attaching(args.base, paths[0], list(range(3, 60))),
            **merging(args.base, paths[0]),
        }
    for name, value in figures.items():
        print(f"{name:<34} {value:>10.2f}" if isinstance(value, float) else f"{name:<34} {value:>10}")
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
