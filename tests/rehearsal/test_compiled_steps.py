"""petrun's compiled steps on MindSpore's Ascend front end, with a stub of CANN and no card.

Nothing is computed: what is checked is that graphs compile (and, in the full matrix, that each operator gets a kernel), which
operators stand in them, and in which types. Needs g++ and readelf on x86-64.
"""

import json
import subprocess
import sys

import pytest

from petrun.rehearsal.graphs import COLLECTIVES
from petrun.rehearsal.operators import IN_PLACE, PURE
from tests.conftest import ROOT

QUICK = ["llama/lora/bfloat16", "gpt2/full/float16", "bert/lora/float32", "llama/generate/bfloat16"]
CLASSIFIERS = ("bert", "roberta")
EXPERTS = ("mixtral", "qwen3_moe")
FAMILIES = [
    "bert",
    "gpt2",
    "llama",
    "qwen3",
    "opt",
    "bloom",
    "glm4",
    "chatglm",
    "phi3",
    "gemma2",
    "gemma3",
    "mixtral",
    "qwen3_moe",
    "roberta",
]
ALL = [
    f"{family}/{what}/{dtype}"
    for family in FAMILIES
    for what in ("lora", "full", "generate")
    for dtype in ("bfloat16", "float16", "float32")
    if what != "generate" or family not in CLASSIFIERS
]
HALF = {"bfloat16": "BFloat16", "float16": "Float16", "float32": "Float32"}
IN_FLOAT32 = {"LayerNorm", "LayerNormGrad", "RmsNorm", "RmsNormGrad", "Softmax", "Exp", "Log", "GatherD", "Adam", "Erf"}


@pytest.fixture(scope="module")
def rig(ascend, tmp_path_factory):
    """(level, cases) -> {case: what the child process found}."""

    def compile_all(level, cases, rank=0, world=1):
        folder = tmp_path_factory.mktemp("cases")
        environment = ascend(rank, world, level)
        environment["PYTHONPATH"] = f"{ROOT}:{environment['PYTHONPATH']}"
        environment["MS_DEV_DUMP_IR_PASSES"] = "validate"
        command = [sys.executable, "-m", "tests.parallel.one_card", str(folder), *cases]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        found = [
            json.loads(line.removeprefix("CASE ")) for line in done.stdout.splitlines() if line.startswith("CASE ")
        ]
        assert [item["case"] for item in found] == list(cases)
        return found

    return compile_all


def check(found):
    family, what, dtype = found["case"].split("/")
    half = HALF[dtype]
    nodes = [tuple(node) for node in found["operators"]]
    names = {node[0] for node in nodes}
    assert found["graphs"] == (2 if what == "generate" else 1) and len(nodes) > 30

    if what != "generate":
        assert names <= {*PURE, *IN_PLACE, *COLLECTIVES, "Return"}, "rehearse --compute knows each operator"
    assert "Custom" not in names, "the CPU's own operators have no place on Ascend"
    wide = {"Int64", "UInt32", "UInt64", "Float64"}
    assert not [node for node in nodes if wide & set(node)], "types that Ascend computes slowly or not at all"
    assert not [node for node in nodes if node[0] in IN_FLOAT32 and {"Float16", "BFloat16"} & set(node[1:])]
    assert found["longest_constant"] <= 64 * 96

    products = {node[1:] for node in nodes if node[0] in ("MatMul", "BatchMatMul")}
    head = {("Float32", "Float32")} if family in CLASSIFIERS else set()
    assert products == {(half, half)} | head
    if family not in ("bloom", "gemma2", "t5"):
        check_attention(nodes, half, what, drops=what != "generate" and family != "qwen3", experts=family in EXPERTS)
    check_types(found, what, half)


def check_attention(nodes, half, what, drops, experts):
    flash = [node for node in nodes if node[0].startswith("FlashAttentionScore")]
    if half == "Float32":
        assert not flash
        return
    assert ("FlashAttentionScore", half, half, half, *(("UInt8",) if drops else ()), "Bool") in flash
    assert any(node[0] == "FlashAttentionScoreGrad" for node in flash) == (what != "generate")
    assert experts or not any(node[0] == "BatchMatMul" for node in nodes), "no matrix of scores"


def check_types(found, what, half):
    trained = set(found["trained"])
    assert bool(trained) == (what != "generate")
    for name, kind in found["types"].items():
        # T5's biases by distance are added to scores, which are in float32.
        in_float32 = name in trained or "norm" in name or name.startswith(("pooler", "classifier")) or ".bias." in name
        assert kind == ("Float32" if in_float32 else half), name
    assert set(found["state"]) <= {"Float32"}
    assert (found["loss_scale"] is not None) == (half == "Float16")
    if what == "full":
        assert trained == set(found["types"])
    if what == "lora":
        assert {name.rpartition(".")[2] for name in trained} >= {"mindpet_delta_lora_a", "mindpet_delta_lora_b"}


def test_steps_compile_for_ascend(rig):
    for found in rig(0, QUICK):
        check(found)


@pytest.mark.all_only
def test_an_encoder_decoder_compiles_for_ascend(rig):
    for found in rig(0, ["t5/lora/bfloat16", "t5/full/float16", "t5/generate/bfloat16"]):
        check(found)


def test_the_data_parallel_step_sums_over_the_ranks(rig):
    """Rank 5 of 8: loss and gradients travel in one vector, in float32; everything else is as on one card."""
    (found,) = rig(0, ["llama/lora/bfloat16"], rank=5, world=8)
    assert found["rank"] == [5, 8]
    assert [node for node in found["operators"] if node[0] == "AllReduce"] == [["AllReduce", "Float32"]]
    check(found)


@pytest.mark.all_only
@pytest.mark.parametrize("family", FAMILIES)
def test_every_operator_gets_a_kernel(rig, family):
    cases = [case for case in ALL if case.startswith(f"{family}/")]
    assert len(cases) == (6 if family in CLASSIFIERS else 9)
    for found in rig(1, cases):
        check(found)
