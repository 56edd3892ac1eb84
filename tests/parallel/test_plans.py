"""Every family's plan on MindSpore's Ascend front end, with no card: what each rank holds, what is sent, what is refused.

Nothing is computed. Slices are held against a rule written here, not against the plan itself.
"""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from petrun.config.schema import ParallelConfig
from petrun.errors import ConfigError
from petrun.graph.sites import Sites
from petrun.parallel import plan
from petrun.parallel.layout import Layout, complete_layout, parse_layout
from tests.conftest import ROOT

WORLD = 8
COLUMNS = r"(attn\.(q|k|v|qkv)|mlp\.(gate|up|gate_up))"
CLASSIFIERS = ("bert", "roberta")
BEFORE_LAYERS = ("embed", "positions", "project_in")
ROWS = r"(attn\.o|mlp\.down)"
BESIDE = (
    "llama/adapter llama/low_rank_adapter llama/ia3 llama/prefix llama/ptuning2 llama/prompt llama/ptuning bert/bitfit "
    "gpt2/lora gpt2/full"
)


@pytest.fixture
def compiled(ascend, tmp_path):
    """(rank, level, case) -> what the child process found; one case each, as MindSpore keeps state from one to the next."""

    def compile_one(rank, level, case, world=WORLD):
        folder = tmp_path / f"{case.replace('/', '_')}_{rank}"
        folder.mkdir()
        environment = ascend(rank, world, level)
        environment["PYTHONPATH"] = f"{ROOT}:{environment['PYTHONPATH']}"
        environment["MS_DEV_DUMP_IR_PASSES"] = "validate,step_parallel_end"
        command = [sys.executable, "-m", "tests.parallel.one_rank", str(folder), case]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        (found,) = [line.removeprefix("CASE ") for line in done.stdout.splitlines() if line.startswith("CASE ")]
        return json.loads(found)

    return compile_one


def cut_by_tensor_parallel(name, shape, tp):
    """The slice of a parameter by the textbook: Shoeybi et al., arXiv:1909.08053, and for A and B what follows from it."""
    axis = None
    if re.search(
        rf"{COLUMNS}\.(weight|bias|mindpet_delta_(lora_b|ia3_l))$|{ROWS}\.mindpet_delta_ia3_l_ff$", name
    ) or re.search(r"^(embed|head|embeddings\.word)\.weight$", name):
        axis = 0
    elif re.search(rf"{ROWS}\.(weight|mindpet_delta_lora_a)$", name):
        axis = 1
    return [size // tp if i == axis else size for i, size in enumerate(shape)]


def check_slices(found, layout):
    """Every parameter, frozen or not, and the optimizer's state beside it."""
    assert len(found["net"]) > 14, "two layers of the family with the fewest parameters, phi3, have 15"
    for name in held_by_stage(found, layout):
        whole = found["whole"][name]
        expected = cut_by_tensor_parallel(name, whole, layout.tp)
        sent = name == "embed.weight" and is_tied(found) and layout.pp > 1
        if layout.zero and expected[0] % layout.dp == 0 and not sent:
            expected[0] //= layout.dp
        assert found["slices"][name] == expected, name
        tied_copy = name == "embed.weight" and layout.coordinates(found["rank"])[0] > 0
        if name in found["trained"] and not tied_copy:
            assert found["slices"][f"adam_m.{name}"] == found["slices"][f"adam_v.{name}"] == expected, name


def is_tied(found):
    return "embed.weight" in found["net"] and "head.weight" not in found["net"]


def held_by_stage(found, layout):
    """Weights of this rank's stage: layers by their number, the embedding before the first and the head behind the last."""
    stage, layers, tied = layout.coordinates(found["rank"])[0], 2, is_tied(found)
    names = []
    for name in found["net"]:
        if name.startswith("layers."):
            wanted = {int(name.split(".")[1]) * layout.pp // layers}
        elif name == "embed.weight" and tied:
            # The last stage is sent a tied embedding, for its head.
            wanted = {0, layout.pp - 1}
        elif name.startswith(BEFORE_LAYERS):
            wanted = {0}
        else:
            wanted = {layout.pp - 1}
        names += [name] if stage in wanted else []
    return names


def check_pipeline(found, layout):
    """What a stage holds; that each part of the batch, and its gradient, goes from stage to stage once."""
    own = set(held_by_stage(found, layout))
    first, tied = layout.coordinates(found["rank"])[0] == 0, is_tied(found)
    # LoRA on the layers of one stage: gpt2, bloom, chatglm and phi3 have four linear layers, the others six or seven. A layer of phi3
    # has six parameters in all, beside the embedding or the head.
    least = 8 if found["case"].startswith(("gpt2", "bloom", "chatglm", "phi3")) else 10
    least = 7 if found["case"].startswith("phi3/full") else least
    assert set(found["held"]) & set(found["net"]) - {"embed.weight"} == own - {"embed.weight"}
    prefixes = ("accu_grads.", "adam_m.", "adam_v.")
    # MindSpore lists what goes with a tied embedding on the last stage too.
    beside = {
        name for name in found["held"] if name.startswith(prefixes) and (first or not name.endswith(".embed.weight"))
    }
    kept = own & set(found["trained"]) - (set() if first else {"embed.weight"})
    assert beside == {prefix + name for prefix in prefixes for name in kept} and len(kept) >= least
    # A tied embedding is sent once a step, and its gradient comes back where it trains.
    there, back = int(tied), int(tied and "embed.weight" in found["trained"])
    parts = layout.micro_batches
    assert found["collectives"]["Send"] == parts + (there if first else back)
    assert found["collectives"]["Receive"] == parts + (back if first else there)
    assert ("Send" in found["forward"], "Receive" in found["forward"]) == (first, not first)
    # Its part of the norm is summed over the ranks of the stage, then over the stages.
    assert found["norms"][1:] == [1, 1] and 0 < found["norms"][0] <= len(kept)
    if layout.zero:
        sharded = [
            name
            for name in kept
            if np.prod(found["slices"][name]) < np.prod(cut_by_tensor_parallel(name, found["whole"][name], layout.tp))
        ]
        assert found["collectives"]["ReduceScatter"] == len(sharded) > 5
        assert set(found["summed"].values()) == {1} and len(found["summed"]) > 5
    else:
        assert found["norms"][0] == len(kept)
        family, algo, _ = found["case"].split("/")[:3]
        outside = 1 if first or family in CLASSIFIERS else 4  # the embedding; the loss
        each = 4 if algo == "lora" else 2
        # Of each part what its layers sum, as on one stage; of the whole the norm, twice, and the loss.
        assert found["forward"]["AllReduce"] == parts * (outside + each * 2 // layout.pp) + 3
        # Once a parameter: parts of a batch that share a graph would each sum it again.
        assert set(found["summed"].values()) == {1} and len(found["summed"]) >= least


GATHERS = {"gpt2": 1, "glm4": 1, "chatglm": 2, "phi3": 2}
"""What a layer gathers over the tp ranks: outputs of products that hold queries, keys and values, or gate and up. Nothing is gathered where
GLM-4 and ChatGLM rotate queries and keys in pairs."""


def check_split_optimizer(found, layout):
    """Each sharded parameter is gathered before use, frozen or not, and the gradient of a trained one is scattered to its owners."""
    sharded = [
        name
        for name in found["net"]
        if cut_by_tensor_parallel(name, found["whole"][name], layout.tp) != found["slices"][name]
    ]
    gathers = 2 * GATHERS.get(found["case"].split("/")[0], 0)
    assert found["forward"]["AllGather"] == len(sharded) + gathers and len(sharded) > 14
    assert found["collectives"]["ReduceScatter"] == len(set(sharded) & set(found["trained"])) + gathers
    # A gradient of which each rank holds another slice is not divided by how many hold it.
    unique = [
        name for name in found["trained"] if np.prod(found["whole"][name]) == WORLD * np.prod(found["slices"][name])
    ]
    assert found["norms"] == [len(found["trained"]) - len(unique), 1, 0] and unique


def check_collectives(found, layers=2):
    """Two sums over the columns in each layer's forward pass, and what vocabulary, loss and norm need; no tensor is gathered."""
    family, algo = found["case"].split("/")[:2]
    adapted = 2 if algo == "lora" else 0  # A of a row layer gives a part of its sum on each rank
    outside = 2 if family in CLASSIFIERS else 5
    sums = outside + layers * (2 + adapted)
    norm = 1
    # GPT-2's queries, keys and values come out of one product: they are gathered before each rank takes its heads.
    # So do GLM's gate and up; ChatGLM and Phi-3 have both.
    gathers = {"AllGather": layers * GATHERS[family]} if family in GATHERS else {}
    assert found["forward"] == {"AllReduce": sums + norm, **gathers}
    assert set(found["collectives"]) == {"AllReduce", *(("AllGather", "ReduceScatter") if gathers else ())}
    # Backward: one sum over the rows for each trained parameter, and over the columns for the input of every column layer.
    assert found["collectives"]["AllReduce"] >= sums + norm + len(found["trained"])
    assert found["norms"] == [len(found["trained"]), 1, 0], "each gradient counts once in the global norm"


def check(found):
    layout = complete_layout(ParallelConfig(**parse_layout(found["case"].split("/")[2])), WORLD)
    check_slices(found, layout)
    if layout.pp > 1:
        check_pipeline(found, layout)
        return
    if layout.zero:
        check_split_optimizer(found, layout)
    else:
        check_collectives(found)
    assert set(found["held"]) >= set(found["net"]), "MindSpore's strategy file leaves nothing out"


@pytest.mark.parametrize(
    "case",
    [
        pytest.param("llama/lora/dp=2,tp=4", marks=pytest.mark.all_only),
        pytest.param("bert/full/dp=2,tp=4", marks=pytest.mark.all_only),
        pytest.param("llama/lora/dp=4,tp=2,zero=1", marks=pytest.mark.all_only),
        "llama/lora/dp=2,tp=2,pp=2",
    ],
)
def test_a_rank_holds_what_the_plan_says(compiled, case):
    check(compiled(5, 0, case))


@pytest.mark.all_only
@pytest.mark.parametrize("rank", [0, 6])
@pytest.mark.parametrize("algo", ["lora", "full"])
@pytest.mark.parametrize(
    "family",
    ["llama", "bert", "gpt2", "opt", "opt-350m", "bloom", "glm4", "chatglm", "phi3", "gemma2", "gemma3", "roberta"],
)
def test_every_family_and_algorithm(compiled, rank, algo, family):
    for layout in ("dp=2,tp=4", "dp=4,tp=2", "dp=4,tp=2,zero=1"):
        check(compiled(rank, 0, f"{family}/{algo}/{layout}"))


OTHERS_NARROW = ("llama/full/dp=2,tp=4", "bert/lora/dp=2,tp=4", "gpt2/lora/dp=2,tp=4")


@pytest.mark.all_only
@pytest.mark.parametrize("case", ["llama/lora/dp=4,tp=2/narrow", *(f"{case}/narrow" for case in OTHERS_NARROW)])
def test_narrow_heads_send_no_more_than_others(compiled, case):
    """Attention in several operators: without a strategy of its own each was sharded another way, with 62 collectives between them."""
    check(compiled(5, 0, case))


@pytest.mark.all_only
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("case", BESIDE.split())
def test_every_method_beside_cut_layers(compiled, case, rank):
    """What a delta brings is whole on each rank, but for the scales of sharded features and what of bitfit belongs to sharded outputs."""
    found = compiled(rank, 0, f"{case}/dp=2,tp=2", world=4)
    check_slices(found, Layout(dp=2, tp=2))
    assert found["trained"] and found["norms"] == [len(found["trained"]), 1, 0]
    assert set(found["summed"].values()) == {1} and set(found["held"]) >= set(found["net"])
    if case.startswith("gpt2"):
        check_collectives(found)


@pytest.mark.all_only
@pytest.mark.parametrize("algo", ["lora", "full"])
def test_tokens_split_between_the_layers(compiled, algo):
    """Korthikanti et al., arXiv:2205.05198: what a row layer sums is scattered over the columns, and gathered before column layers."""
    case, layers = f"llama/{algo}/dp=2,tp=2", 2
    whole, split = (compiled(1, 1, f"{case}{more}", world=4) for more in ("", ",sequence=true"))
    check_slices(split, Layout(dp=2, tp=2))
    assert split["slices"] == whole["slices"] and split["trained"] == whole["trained"]
    scattered = layers * (4 if algo == "lora" else 2)
    # No AllReduce is left in the layers: one for the embedding, four for the loss, one for the norm.
    assert whole["forward"] == {"AllReduce": 6 + scattered}
    assert (split["forward"]["AllReduce"], split["forward"]["ReduceScatter"]) == (6, scattered)
    # Twice a layer, and before the head; what goes back takes the opposite, but for a gradient that nothing needs.
    gathers = 2 * layers + 1
    frozen_embedding = 1 if algo == "lora" else 0
    assert split["collectives"]["AllGather"] == gathers + scattered
    assert split["collectives"]["ReduceScatter"] == gathers + scattered - frozen_embedding
    assert split["norms"] == [len(split["trained"]), 1, 0] and set(split["summed"].values()) == {1}
    print(f"{case}: peak memory {whole['peak_bytes']} bytes, {split['peak_bytes']} with sequence=true")
    # Where everything trains, memory is at its peak in the update.
    assert 0 < split["peak_bytes"] <= whole["peak_bytes"] and (
        algo == "full" or split["peak_bytes"] < whole["peak_bytes"]
    )


@pytest.mark.all_only
@pytest.mark.parametrize("case", ["llama/full/dp=2,tp=2", "bert/full/dp=2,tp=2,zero=1", "llama/full/dp=2,tp=1,pp=2"])
def test_an_optimizer_on_the_host_takes_no_memory_of_the_card(compiled, case):
    """Same slices and sums, and the peak falls by the state."""
    plain, moved = (compiled(0, 1, f"{case}{more}", world=4) for more in ("", "/offload"))
    here = [name for name in moved["trained"] if name in moved["held"]]
    assert plain["on_host"] == [] and moved["on_host"] == ["AdamNoUpdateParam"] * len(here)
    for key in ("slices", "collectives", "norms", "summed"):
        assert moved[key] == plain[key], key
    state = 2 * 4 * sum(np.prod(moved["slices"][name]) for name in here)
    print(
        f"{case}: peak {plain['peak_bytes']} bytes, {moved['peak_bytes']} with the optimizer on the host; state {state}"
    )
    assert plain["peak_bytes"] - moved["peak_bytes"] > 0.9 * state


@pytest.mark.all_only
@pytest.mark.parametrize("case", ["llama/full/dp=2,tp=2", "bert/lora/dp=2,tp=2,zero=1"])
def test_peak_memory_counts_the_optimizers_state(compiled, case):
    """A rehearsal computes nothing, so MindSpore would leave out what stands in a branch that is taken when all is finite."""
    found = compiled(0, 1, case, world=4)
    trained = sum(np.prod(found["slices"][name]) for name in found["trained"])
    frozen = sum(np.prod(found["slices"][name]) for name in found["net"] if name not in found["trained"])
    # float32 weights that train, their gradients and two moments; frozen ones bfloat16.
    assert found["peak_bytes"] > 4 * 4 * trained + 2 * frozen


@pytest.mark.all_only
@pytest.mark.parametrize("rank", [0, 5])
@pytest.mark.parametrize(
    "case",
    [
        "llama/lora/dp=2,tp=2,pp=2",
        "llama/full/dp=2,tp=2,pp=2,micro_batches=4",
        "llama/lora/dp=2,tp=2,pp=2/tied",
        "llama/full/dp=2,tp=2,pp=2/tied",
        "llama/lora/dp=2,tp=2,pp=2,zero=1",
        "llama/lora/dp=2,tp=2,pp=2,zero=1/tied",
        "llama/full/dp=2,tp=2,pp=2,zero=1/tied",
        "bert/lora/dp=2,tp=2,pp=2",
        "bert/full/dp=2,tp=2,pp=2,micro_batches=4",
        "bert/full/dp=2,tp=2,pp=2,zero=1",
        "gpt2/lora/dp=2,tp=2,pp=2",
        "gpt2/full/dp=2,tp=2,pp=2",
        "opt/lora/dp=2,tp=2,pp=2",
        "bloom/lora/dp=2,tp=2,pp=2",
        "bloom/full/dp=2,tp=2,pp=2",
        "roberta/lora/dp=2,tp=2,pp=2",
        "glm4/lora/dp=2,tp=2,pp=2",
        "glm4/full/dp=2,tp=2,pp=2",
        "chatglm/lora/dp=2,tp=2,pp=2",
        "phi3/full/dp=2,tp=2,pp=2",
        "gemma2/full/dp=2,tp=2,pp=2",
        "gemma3/lora/dp=2,tp=2,pp=2",
        "opt/full/dp=2,tp=2,pp=2,micro_batches=4",
        "opt-350m/full/dp=2,tp=2,pp=2,zero=1",
    ],
)
def test_stages_of_a_pipeline(compiled, rank, case):
    found = compiled(rank, 1, case)
    check(found)
    print(f"{case}, rank {rank}: peak memory {found['peak_bytes'] / 2**20:.2f} MiB")
    assert found["peak_bytes"] > 0


class Cell:
    """A layer without a `set_layout`."""

    in_channels = 6


class Net:
    marked = False

    def __init__(self, **cells):
        self.cells = cells

    def cells_and_names(self):
        return [("", self), *self.cells.items()]


def test_a_model_or_a_delta_without_a_plan_is_refused():
    with pytest.raises(ConfigError, match="does not say how its layers are sharded"):
        plan.apply(Net(), Sites(), Layout(dp=1, tp=2))
    plan.apply(Net(), Sites(), Layout(dp=8, zero=1))
    with pytest.raises(ConfigError, match="does not say where its tokens are split"):
        plan.apply(Net(), Sites(), Layout(dp=1, tp=2, sequence=True))
    with pytest.raises(ConfigError, match="divided into stages"):
        plan.apply(Net(), Sites(), Layout(dp=1, tp=1, pp=2, zero=0, micro_batches=2))
    sites = Sites(splits={"o": "row"}, heads=4, kv_heads=4)
    with pytest.raises(ConfigError, match="o: a Cell is not sharded over ranks"):
        plan.apply(Net(o=Cell()), sites, Layout(dp=1, tp=2))
    plan.apply(Net(o=Cell()), sites, Layout(dp=2))


def test_recompute_marks_layers_or_what_is_inside_them():
    class Marked:
        marked = False

        def recompute(self):
            self.marked = True

    sites = Sites(splits={"layers.*.act": "wide"}, cores="layers.*.core", blocks="layers.*")
    paths = ("embed", "layers.0", "layers.0.core", "layers.0.act", "layers.0.norm")
    for how, expected in (("none", []), ("full", ["layers.0"]), ("select", ["layers.0.core", "layers.0.act"])):
        net = Net(**{path: Marked() for path in paths})
        plan.recompute(net, sites, how)
        assert [path for path, cell in net.cells.items() if cell.marked] == expected
    with pytest.raises(ConfigError, match="--recompute"):
        plan.recompute(net, Sites(), "full")


def test_layers_that_do_not_divide_are_all_named():
    class Cuttable(Cell):
        def set_layout(self, role, dp, tp):
            raise AssertionError("nothing is set before all is checked")

    sites = Sites(splits={"*": "row"}, heads=8, kv_heads=4)
    with pytest.raises(ConfigError) as caught:
        plan.apply(Net(o=Cuttable(), down=Cuttable()), sites, Layout(dp=1, tp=8))
    assert "4 key/value heads: not a multiple of tp=8" in caught.value.message and "1, 2, 4" in caught.value.hint
    assert "o: 6 inputs, not a multiple of tp=8" in caught.value.message and "down: 6 inputs" in caught.value.message


def test_a_star_is_one_part_of_a_path():
    sites = Sites(splits={"layers.*": "tokens", "layers.*.o": "row", "": "whole"})
    roles = {path: plan.role_of(path, sites) for path in ("", "layers.0", "layers.11.o", "layers.0.attn.o", "layers")}
    assert roles == {"": "whole", "layers.0": "tokens", "layers.11.o": "row", "layers.0.attn.o": None, "layers": None}
