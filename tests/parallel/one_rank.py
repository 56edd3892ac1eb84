"""Compile petrun's own training step for one rank of a cluster of Ascend cards that is not there.

    RANK_ID=1 RANK_SIZE=8 python -m tests.parallel.one_rank FOLDER FAMILY/ALGO/LAYOUT[/tied][/offload][/narrow]

MindSpore must find a CANN, or a stub of one, and MS_SIMULATION_LEVEL. Prints one JSON object.
"""

import json
import os
import re
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from petrun.config.schema import ParallelConfig
from petrun.delta import METHODS
from petrun.graph.freeze import freeze_all_but
from petrun.models.factory import load_model
from petrun.parallel import plan
from petrun.parallel.context import connect, setup, split_operators, stage_here
from petrun.parallel.layout import complete_layout, parse_layout
from petrun.rehearsal.graphs import gradient_sums
from petrun.train.adamw import AdamW, HostAdamW
from petrun.train.loss import SupervisedLoss
from petrun.train.pipelined import PipelineStep, Stage
from petrun.train.schedules import Schedule
from petrun.train.step import TrainStep
from tests.models import reference
from tests.models.agreement import CHATGLM
from tests.models.transformers_cases import BLOOM, GEMMA2, GEMMA3, GLM, MIXTRAL, OPT, PHI3, QWEN3_MOE, ROBERTA

ROWS, T = 8, 16
"""Rows of the whole batch; tokens."""
SIZES = {
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_attention_heads": 8,
    "vocab_size": 64,
}
CONFIGS = {
    "bert": {
        **reference.BERT,
        **SIZES,
        "max_position_embeddings": 32,
        "attention_probs_dropout_prob": 0.1,
        "hidden_dropout_prob": 0.1,
    },
    "gpt2": {
        **reference.GPT2, "n_layer": 2, "n_embd": 128, "n_head": 8, "n_inner": 96, "vocab_size": 64, "n_positions": 32,
        "resid_pdrop": 0.1,
    },
    "llama": {**reference.LLAMA, **SIZES, "num_key_value_heads": 4, "attention_dropout": 0.1},
    "bloom": {**BLOOM, "hidden_size": 128, "n_head": 8, "vocab_size": 64, "hidden_dropout": 0.1},
    "glm4": {**GLM, **SIZES, "model_type": "glm4", "num_key_value_heads": 4, "head_dim": 16, "attention_dropout": 0.1},
    "chatglm": {
        **CHATGLM, "hidden_size": 128, "ffn_hidden_size": 96, "num_attention_heads": 8, "multi_query_group_num": 4, "kv_channels": 16,
        "padded_vocab_size": 64, "attention_dropout": 0.1,
    },
    "phi3": {**PHI3, **SIZES, "num_key_value_heads": 4, "max_position_embeddings": 32, "attention_dropout": 0.1},
    "gemma2": {**GEMMA2, **SIZES, "num_key_value_heads": 4, "head_dim": 16, "attention_dropout": 0.1},
    "gemma3": {**GEMMA3, **SIZES, "num_key_value_heads": 4, "head_dim": 16, "attention_dropout": 0.1},
    "mixtral": {**MIXTRAL, **SIZES, "num_key_value_heads": 4, "head_dim": 16, "attention_dropout": 0.1},
    "qwen3_moe": {
        **QWEN3_MOE, **SIZES, "num_key_value_heads": 4, "head_dim": 16, "num_experts": 8, "moe_intermediate_size": 32,
        "attention_dropout": 0.1,
    },
    "roberta": {**ROBERTA, **SIZES, "max_position_embeddings": 32, "hidden_dropout_prob": 0.1},
    "opt": {**OPT, **SIZES, "ffn_dim": 96, "word_embed_proj_dim": 128, "max_position_embeddings": 32, "dropout": 0.1},
    "opt-350m": {**OPT, **SIZES, "ffn_dim": 96, "word_embed_proj_dim": 64, "do_layer_norm_before": False},
}  # fmt: skip

NARROW = {
    "bert": {"num_attention_heads": 16},
    "gpt2": {"n_head": 16},
    "llama": {"num_attention_heads": 16, "num_key_value_heads": 8},
}
"""Heads of 8 features: too narrow for the operator that computes attention in one piece."""

SETTINGS = {
    "lora": {"rank": 4, "dropout": 0.1, "target": ("all-linear",)},
    "adapter": {"bottleneck": 12},
    "low_rank_adapter": {"reduction_factor": 8, "low_rank_size": 2},
    "prefix": {"tokens": 8, "middle": 12, "dropout": 0.1},
    "ptuning2": {"tokens": 8},
    "prompt": {"tokens": 8},
    "ptuning": {"tokens": 8, "middle": 12},
}


def step_of(loaded, algo, layout, on_host=False):
    """The training step of all linear layers, or of everything, laid out."""
    method = METHODS[algo]
    settings = SETTINGS.get(algo, {})
    owned = method.attach(loaded.net, method.config(**settings), loaded.sites, 0)
    heads = [name for name in loaded.names if name.startswith("classifier.")]
    parameters = freeze_all_but(loaded.net, (*owned, *heads)).parameters
    loaded.net.set_train(True)
    loss = SupervisedLoss(loaded.net)
    plan.apply(loaded.net, loaded.sites, layout, loss)
    schedule = Schedule(kind="cosine", peak=1e-3, warmup_steps=2, total_steps=10)
    optimizer = (HostAdamW if on_host else AdamW)(
        parameters, schedule, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01
    )
    if layout.pp == 1:
        return TrainStep(loss, optimizer, clip=1.0)
    return PipelineStep(
        loss,
        optimizer,
        stage=Stage(
            index=stage_here(layout), count=layout.pp, copies=layout.dp * layout.tp, splits_state=layout.zero > 0
        ),
        micro_batches=layout.micro_batches,
        clip=1.0,
    )


def operators(text):
    """{collective: how often it stands in a graph as MindSpore prints it}."""
    names = re.findall(r"^ *%\d+\(.*?\) = (?:PrimFunc_)?(\w+)\(", text, re.MULTILINE)
    wanted = ("AllReduce", "AllGather", "ReduceScatter", "Send", "Receive", "AlltoAll")
    return {name: names.count(name) for name in wanted if name in names}


def of_norms(text):
    """Squares of how many parameters are summed over the ranks, and in how many sums over ranks of a stage and over stages."""
    places = ("DIV", "IN_STAGES", "BETWEEN_STAGES")
    return [text.count(f"instance name: PARALLEL_GLOBALNORM_{what}") for what in places]


def case(folder, spelled):
    family, algo, text, *more = spelled.split("/")
    rank, world = int(os.environ["RANK_ID"]), int(os.environ["RANK_SIZE"])
    layout = complete_layout(ParallelConfig(**parse_layout(text)), world)
    ms.set_context(save_graphs=1, save_graphs_path=str(folder / "graphs"))
    classify = family in ("bert", "roberta")
    config = {**CONFIGS[family], **({"tie_word_embeddings": True} if "tied" in more else {})}
    config |= NARROW[family] if "narrow" in more else {}
    base = reference.write(folder / "base", config, reference.make(config))
    loaded = load_model(base, compute_dtype="bfloat16", num_labels=3 if classify else None)
    split_operators(layout, rank, folder / "strategy.ckpt")
    step = step_of(loaded, algo, layout, "offload" in more)
    whole = {p.name: list(p.shape) for p in step.get_parameters()}
    rows = Tensor(np.ones((ROWS, T), np.int32))
    targets = Tensor(np.ones(ROWS, np.int32)) if classify else rows
    inputs = (True, Tensor(4.0, ms.float32), targets, *(rows for _ in loaded.inputs))
    if os.environ["MS_SIMULATION_LEVEL"] == "0":
        step.compile(*step.arguments(*inputs))
    else:
        step(*inputs)
    graph = next((folder / "graphs").rglob("*validate*.ir")).read_text(errors="replace")
    parallel = next((folder / "graphs").rglob("*step_parallel_end*.ir")).read_text(errors="replace")
    held = step.parameter_layout_dict
    return {
        "case": spelled,
        "rank": rank,
        "net": [p.name for p in loaded.net.get_parameters()],
        "trained": [p.name for p in step.optimizer.parameters],
        "whole": whole,
        "slices": {p.name: list(p.shape) for p in step.get_parameters()},
        "held": sorted(held),
        "forward": operators(parallel),
        "collectives": operators(graph),
        "norms": of_norms(parallel),
        "summed": gradient_sums([graph]),
        "on_host": re.findall(r'= (?:PrimFunc_)?(\w+)\(.*primitive_target: "CPU"', graph),
        "peak_bytes": int(ms.runtime.max_memory_allocated()),
    }


def main(folder, spelled):
    setup("ascend", "bfloat16")
    connect("a rehearsal")
    print("CASE", json.dumps(case(folder, spelled)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
