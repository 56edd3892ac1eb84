"""Compile petrun's own steps for an Ascend card that is not there, alone or one of many, and say what stands in their graphs.

    python -m tests.parallel.one_card FOLDER FAMILY/WHAT/DTYPE...        WHAT: lora, full or generate

MindSpore must find a CANN, or a stub of one, and MS_SIMULATION_LEVEL. At level 0 graphs are compiled, at level 1 each operator
is given its kernel as well. Prints one JSON object a case.
"""

import json
import os
import re
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from petrun.cluster.world import join
from petrun.delta import METHODS
from petrun.graph.freeze import freeze_all_but
from petrun.models.decoding import DecodeStep, PrefillStep
from petrun.models.factory import load_model
from petrun.parallel.context import setup
from petrun.parallel.reduce import SumOverRanks
from petrun.train.adamw import AdamW
from petrun.train.loss import SupervisedLoss
from petrun.train.schedules import Schedule
from petrun.train.step import TrainStep
from tests.models import reference
from tests.models.agreement import CHATGLM
from tests.models.t5_cases import GATED
from tests.models.transformers_cases import BLOOM, GEMMA2, GEMMA3, GLM, MIXTRAL, OPT, PHI3, QWEN3_MOE, ROBERTA

B, T, SLOTS, LAYERS = 2, 64, 72, 1
WIDER = {"num_hidden_layers": LAYERS, "hidden_size": 64, "intermediate_size": 96}
CONFIGS = {
    "bert": {**reference.BERT, **WIDER, "max_position_embeddings": 64, "attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1},
    "gpt2": {**reference.GPT2, "n_layer": LAYERS, "n_embd": 64, "n_positions": 80, "attn_pdrop": 0.1, "resid_pdrop": 0.1},
    "llama": {**reference.LLAMA, **WIDER, "attention_dropout": 0.1},
    "bloom": {**BLOOM, "n_layer": LAYERS, "hidden_size": 64, "attention_dropout": 0.1, "hidden_dropout": 0.1},
    "glm4": {**GLM, **WIDER, "model_type": "glm4", "head_dim": 32, "attention_dropout": 0.1},
    "chatglm": {**CHATGLM, "num_layers": LAYERS, "hidden_size": 64, "ffn_hidden_size": 96, "kv_channels": 32, "attention_dropout": 0.1},
    "phi3": {**PHI3, **WIDER, "head_dim": 32, "max_position_embeddings": 80, "attention_dropout": 0.1},
    "gemma2": {**GEMMA2, **WIDER, "head_dim": 32, "attention_dropout": 0.1},
    "gemma3": {**GEMMA3, **WIDER, "head_dim": 32, "attention_dropout": 0.1},
    "mixtral": {**MIXTRAL, **WIDER, "head_dim": 32, "attention_dropout": 0.1},
    "qwen3_moe": {
        **QWEN3_MOE, **WIDER, "num_hidden_layers": 2, "head_dim": 32, "moe_intermediate_size": 32, "attention_dropout": 0.1,
    },
    "roberta": {**ROBERTA, **WIDER, "max_position_embeddings": 80, "attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1},
    "opt": {
        **OPT, **WIDER, "ffn_dim": 96, "word_embed_proj_dim": 32, "do_layer_norm_before": False, "max_position_embeddings": 80,
        "dropout": 0.1, "attention_dropout": 0.1,
    },
    "t5": {**GATED, "num_layers": LAYERS, "d_model": 64, "d_kv": 16, "d_ff": 96, "dropout_rate": 0.1},
    "qwen3": {**reference.LLAMA, **WIDER, "model_type": "qwen3", "head_dim": 32, "attention_bias": False},
}  # fmt: skip


def ids(*shape):
    return Tensor(np.ones(shape, np.int32))


def run(step, *inputs):
    """Level 0 has no kernels to run."""
    if os.environ["MS_SIMULATION_LEVEL"] == "0":
        step.compile(*inputs)
    else:
        step(*inputs)


def train(loaded, algo, loss_scale, ranks):
    """Compile the training step; returns what trains and the types of the optimizer's state."""
    method = METHODS[algo]
    config = method.config(rank=4, dropout=0.1) if algo == "lora" else method.config()
    heads = [name for name in loaded.names if name.startswith("classifier.")]
    owned = (*method.attach(loaded.net, config, loaded.sites, 0), *heads)
    parameters = freeze_all_but(loaded.net, owned).parameters
    loaded.net.set_train(True)
    schedule = Schedule(kind="cosine", peak=1e-3, warmup_steps=2, total_steps=10)
    optimizer = AdamW(parameters, schedule, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01)
    reduce = SumOverRanks(parameters) if ranks > 1 else None
    step = TrainStep(SupervisedLoss(loaded.net), optimizer, clip=1.0, loss_scale=loss_scale, reduce=reduce)
    targets = ids(B) if loaded.family in ("bert", "roberta") else ids(B, T)
    run(step, True, Tensor(4.0, ms.float32), targets, *(ids(B, T) for _ in loaded.inputs))
    return [p.name for p in parameters], sorted({str(p.dtype) for p in (*optimizer.m, *optimizer.v, *step.sums)})


def generate(loaded, dtype):
    """Compile both steps of generation."""
    prefill, decode = PrefillStep(loaded.net), DecodeStep(loaded.net)
    for step in (prefill, decode):
        step.set_train(False)
    caches = loaded.net.open_caches(B, SLOTS)
    assert str(caches[0].dtype).lower() == dtype
    lengths, rows = Tensor(np.full(B, T, np.int32)), Tensor(np.arange(B, dtype=np.int32))
    run(prefill, ids(B, T), lengths, rows, *caches)
    run(decode, ids(B, 1), lengths, *caches)


def operators(text):
    """(operator, types of its tensors) of every node of a graph as MindSpore prints it."""
    found = set()
    for name, inputs in re.findall(r"^ *%\d+\(.*?\) = (?:PrimFunc_)?(\w+)\(.*\n *: \((.*)\) -> ", text, re.MULTILINE):
        found.add((name, *re.findall(r"Tensor\[(\w+)\]", inputs)))
    return sorted(found)


def longest_constant(text):
    sizes = (re.findall(r"\d+", shape) for shape in re.findall(r"Tensor\(shape=\[([\d, ]*)\]", text))
    return max((int(np.prod([int(n) for n in size])) for size in sizes), default=0)


def case(folder, spelled):
    family, what, dtype = spelled.split("/")
    device = setup("ascend", dtype)
    world = join(device.target)
    ms.set_context(save_graphs=1, save_graphs_path=str(folder / "graphs"))
    base = reference.write(folder / "base", CONFIGS[family], reference.make(CONFIGS[family]))
    loaded = load_model(
        base, compute_dtype=device.compute_dtype, num_labels=3 if family in ("bert", "roberta") else None
    )
    trained, state = ([], [])
    if what == "generate":
        generate(loaded, dtype)
    else:
        trained, state = train(loaded, what, device.loss_scale, world.size)
    graphs = [path.read_text(errors="replace") for path in sorted((folder / "graphs").rglob("*validate*.ir"))]
    return {
        "case": spelled,
        "rank": [world.rank, world.size],
        "loss_scale": device.loss_scale,
        "types": {p.name: str(p.dtype) for p in loaded.net.get_parameters()},
        "trained": trained,
        "state": state,
        "graphs": len(graphs),
        "operators": [node for text in graphs for node in operators(text)],
        "longest_constant": max(map(longest_constant, graphs), default=0),
    }


if __name__ == "__main__":
    for number, spelled in enumerate(sys.argv[2:]):
        print("CASE", json.dumps(case(Path(sys.argv[1]) / str(number), spelled)), flush=True)
