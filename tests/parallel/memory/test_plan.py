"""The plan of a step, held against figures that MindSpore 2.10 planned for its compiled graphs: `petrun rehearse --json`.

Each was printed for the llama of 4 layers below, in bfloat16; scripts/bench/memory.py --part ascend repeats such comparisons.
"""

import json

import pytest

from petrun.config.load import load_run_config
from petrun.parallel.context import Device
from petrun.parallel.layout import Layout
from petrun.training.setup.memory_plan import UnknownMemoryError, memory_of

LLAMA = {
    "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4,
    "intermediate_size": 2816, "vocab_size": 512, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "hidden_act": "silu",
}  # fmt: skip
CARD, CPU = Device("ascend", "bfloat16", None), Device("cpu", "float32", None)
MIB = 2**20


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return folder


def memory(base, algo, rows, tokens, *sets, layout=None, device=CARD):
    flags = {"algo": ("--algo", algo), "model.base": ("--base", str(base)), "train.batch_size": ("--batch-size", rows)}
    config = load_run_config(None, flags, list(sets), embedded=None).config
    return memory_of(config, device, layout or Layout(), tokens, None)


REHEARSED = [
    ("lora", 4, 512, [], {}, 536.0),
    ("full", 4, 512, [], {}, 1170.4),
    ("full", 1, 128, [], {}, 920.3),
    ("full", 4, 512, ["parallel.offload=optimizer"], {}, 802.3),
    ("full", 4, 512, ["train.accumulate=4"], {}, 1538.5),
    ("lora", 4, 512, ["parallel.recompute=full"], {}, 266.6),
    ("lora", 4, 512, [], {"tp": 2, "sequence": True}, 279.7),
    ("full", 4, 512, [], {"dp": 2, "zero": 3}, 814.4),
    ("full", 4, 512, [], {"dp": 2, "tp": 2, "zero": 1}, 505.4),
    ("lora", 8, 512, [], {"pp": 2, "micro_batches": 4}, 269.8),
    ("prefix", 4, 512, [], {}, 525.9),
    ("ia3", 4, 512, [], {}, 656.4),
    ("adapter", 4, 512, [], {}, 551.0),
]


@pytest.mark.parametrize(("algo", "rows", "tokens", "sets", "layout", "mib"), REHEARSED)
def test_the_plan_of_a_card_is_that_of_the_compiled_graph(base, algo, rows, tokens, sets, layout, mib):
    plan = memory(base, algo, rows, tokens, *sets, layout=Layout(**layout)).plan()
    assert plan.total / MIB == pytest.approx(mib, rel=0.05)


@pytest.mark.parametrize(("algo", "rows", "mib"), [("full", 2, 1898), ("lora", 4, 1252)])
def test_the_plan_of_the_cpu_is_near_what_a_process_held(tmp_path, algo, rows, mib):
    """Cases 3 and 1 of scripts/bench/memory.py --part cpu: peaks of resident size, rows of 256 tokens."""
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "vocab_size": 8192}))
    assert memory(tmp_path, algo, rows, 256, device=CPU).plan().total / MIB == pytest.approx(mib, rel=0.08)


def test_the_update_on_the_cpu_holds_gradients_and_the_square_of_the_largest(base):
    plan = memory(base, "full", 1, 8, "train.accumulate=2", device=CPU).plan()
    largest = 2816 * 1024
    assert plan.moment == "the update" and plan.gradients == 3 * plan.weights
    # And what the largest product packs; no copy of all weights.
    assert 4 * largest <= plan.workspace < 12 * largest < plan.weights


def test_more_rows_take_more_activations_and_the_same_weights(base):
    run = memory(base, "lora", 4, 256, device=CPU)
    one, two = run.plan(rows=4), run.plan(rows=8)
    assert two.activations == pytest.approx(2 * one.activations, rel=0.01)
    assert (two.weights, two.optimizer, two.process) == (one.weights, one.optimizer, one.process)


def test_the_parts_are_counted_from_the_config(base):
    """Embedding and head, and per layer 3 H^2 for the attention with half as many key heads, 3 HF, two norms; and the last norm."""
    hidden, wide = 1024, 2816
    values = 2 * 512 * hidden + 4 * (3 * hidden**2 + 3 * hidden * wide + 2 * hidden) + hidden
    plan = memory(base, "full", 1, 8, device=CPU).plan()
    assert (plan.weights, plan.optimizer, plan.gradients) == (4 * values, 8 * values, 4 * values)


def test_a_net_of_the_users_own_is_not_known(base):
    config = load_run_config(None, {"model.family": ("--model", "nets.py:make")}, [], embedded=None).config
    with pytest.raises(UnknownMemoryError, match=r"--model nets\.py:make"):
        memory_of(config, CPU, Layout(), 8, None)


def test_a_method_with_cells_that_the_plan_does_not_follow_is_not_known(base):
    with pytest.raises(UnknownMemoryError, match="DoraDense"):
        memory(base, "lora", 4, 64, "delta.variant=dora").plan()
    with pytest.raises(UnknownMemoryError, match="the loss of --algo"):
        memory(base, "lora+r_drop", 4, 64)
