"""`petrun rehearse`: the step of a run, compiled for ranks of a cluster that is not there."""

import json

import pytest

from petrun.console import bytes_text
from petrun.errors import SetupError
from petrun.parallel.context import Device
from petrun.parallel.layout import Layout
from petrun.rehearsal import compile_ranks, shapes
from petrun.rehearsal.job import read_settings
from petrun.rehearsal.processes import RankExit
from petrun.rehearsal.report import shard_lines
from petrun.training.setup.memory_plan import memory_of
from petrun.training.setup.resolve_auto import resolve_auto
from petrun.training.setup.resolve_layout import resolve_layout
from tests.tiny import CONFIGS, ORDERS, REVIEWS, write_base, write_rows


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """Bases of which nothing but config.json is here; the current folder."""
    for family, config in CONFIGS.items():
        (tmp_path / family).mkdir()
        (tmp_path / family / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_ranks_of_a_data_parallel_job(ascend, configs, petrun):
    done = petrun(
        "rehearse --base llama --data far/away.jsonl --rank 3 --cards 4 --ranks 1,3 --seq-len 16 --batch-size 2 --level 0 --json found.json"
    )
    assert done.code == 0, done.err
    found = json.loads((configs / "found.json").read_text())
    assert found["layout"]["dp"] == found["world"] == 4 and not found["failed"]
    assert found["shapes"]["tokens"] == 16 and found["shapes"]["batch"] == 2
    assert [rank["rank"] for rank in found["ranks"]] == [1, 3]
    assert [rank["place"]["row"] for rank in found["ranks"]] == [1, 3]
    for rank in found["ranks"]:
        slices = {p["name"]: p for p in rank["parameters"]}
        assert slices["layers.1.attn.q.weight"] == {
            "name": "layers.1.attn.q.weight",
            "shape": [16, 16],
            "slice": [16, 16],
            "dtype": "bfloat16",
            "trains": False,
        }
        trained = sorted(name for name, p in slices.items() if p["trains"])
        assert trained == sorted(
            f"layers.{i}.attn.{cell}.mindpet_delta_lora_{part}" for i in (0, 1) for cell in "qv" for part in "ab"
        )
        values = 2 * (2 * 3 * 16 + 16 * 3 + 8 * 3)
        assert rank["trained_values"] == values
        # All gradients in one piece, and the loss.
        assert list(rank["collectives"]) == ["AllReduce"]
        assert values * 4 <= rank["collectives"]["AllReduce"]["bytes"] <= values * 4 + 64
        assert rank["state_bytes"] >= 2 * values * 4 and rank["peak_bytes"] is None
    for line in (
        "dp=4,tp=1,pp=1,zero=0 on 4 Ascend cards, ranks 1, 3",
        "data.seq_len, as far/away.jsonl is not on this machine",
        "layers.*.attn.q.mindpet_delta_lora_a  2x  3x16 whole",
        "shards as on rank 1",
        "only with --level 1",
        "not shown: numbers",
    ):
        assert line in done.out, line
    assert {path.name for path in configs.iterdir()} == {*CONFIGS, "found.json"}


@pytest.mark.all_only
@pytest.mark.parametrize("algo", ["full", "lora", "prefix", "adalora", "bitfit"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_every_family_with_its_memory(ascend, configs, petrun, family, algo):
    few = " --tokens 4" if algo == "prefix" else ""
    done = petrun(
        f"rehearse --base {family} --algo {algo}{few} --cards 2 --seq-len 16 --batch-size 2 --json found.json"
    )
    if (family, algo) == ("llama", "bitfit"):
        assert done.code == 1 and "the model has no bias" in done.err
        return
    assert done.code == 0, done.err
    found = json.loads((configs / "found.json").read_text())
    assert all(rank["peak_bytes"] > rank["state_bytes"] and rank["collectives"]["AllReduce"] for rank in found["ranks"])


@pytest.mark.all_only
@pytest.mark.parametrize(
    ("variant", "layout"), [("dora", "zero=1"), ("dora", "pp=2"), ("pissa", "tp=2"), ("pissa", "zero=1")]
)
def test_variants_of_lora_whose_first_values_follow_from_the_base(ascend, configs, petrun, variant, layout):
    """A rehearsal has no base to compute them from; with zero a matrix read by two operators must be cut alike for both."""
    done = petrun(
        f"rehearse --base llama --rank 2 --set delta.variant={variant} --parallel {layout} --cards 4 --ranks 0 --seq-len 16 "
        "--batch-size 2 --level 0"
    )
    assert done.code == 0, done.err


@pytest.mark.all_only
def test_what_the_host_keeps_of_a_data_parallel_job(ascend, configs, petrun):
    for flags in ("", " --offload optimizer"):
        done = petrun(
            f"rehearse --base llama --algo full{flags} --cards 2 --ranks 1 --seq-len 16 --batch-size 2 --json found{len(flags)}.json"
        )
        assert done.code == 0, done.err
    assert "in the host's memory" in done.out and "count with more" not in done.out
    plain, moved = (json.loads((configs / f"found{n}.json").read_text())["ranks"][0] for n in (0, len(flags)))
    moments = 8 * plain["trained_values"]
    assert (plain["host_state_bytes"], moved["host_state_bytes"]) == (0, moments)
    assert plain["state_bytes"] - moved["state_bytes"] == moments
    assert plain["peak_bytes"] - moved["peak_bytes"] > 0.9 * moments


@pytest.mark.all_only
@pytest.mark.parametrize(
    ("flags", "rank", "sends", "receives"),
    [
        # A stage in the middle: four parts and their gradients go in and out.
        ("--cards 4 --parallel pp=4 --ranks 1", 1, 8, 8),
        # Two parts, and the tied embedding.
        ("--cards 4 --parallel dp=2,pp=2 --set model.dtype=float16 --ranks 3", 3, 2, 3),
        ("--cards 4 --parallel dp=2,pp=2,zero=1 --set model.dtype=float16 --ranks 0", 0, 3, 2),
        ("--cards 4 --parallel dp=2,pp=2 --recompute full --ranks 0", 0, 3, 2),
        ("--cards 8 --parallel dp=2,tp=2,pp=2 --recompute select --algo full --ranks 7 --offload optimizer", 7, 3, 3),
    ],
)
def test_stages_with_what_else_a_run_may_ask_for(ascend, configs, petrun, flags, rank, sends, receives):
    """Four layers: more than two stages, float16 with its loss scale, recomputation, the optimizer on the host."""
    done = petrun(f"rehearse {flags} --seq-len 64 --batch-size 4 --level 0 --json found.json")
    assert done.code == 0, done.err
    (found,) = json.loads((configs / "found.json").read_text())["ranks"]
    calls = {name: found["collectives"][name]["count"] for name in ("Send", "Receive")}
    assert found["rank"] == rank and calls == {"Send": sends, "Receive": receives}
    layers = {p["name"].split(".")[1] for p in found["parameters"] if p["name"].startswith("layers.")}
    stages = 4 if "pp=4" in flags else 2
    each = 4 // stages
    first = found["place"]["stage"] * each
    assert layers == {str(layer) for layer in range(first, first + each)}
    assert ("float16" in flags) == any(p["dtype"] == "float16" for p in found["parameters"])


@pytest.mark.all_only
@pytest.mark.parametrize("flags", ["dp=2,tp=2,zero=1 --algo full", "dp=2,tp=2,zero=3 --accumulate 2"])
def test_a_split_optimizer_with_a_loss_scale(ascend, configs, petrun, flags):
    """The loss scale is one number on every rank: MindSpore's front end crashes where it may cut it."""
    half = "--set model.dtype=float16 --seq-len 64 --batch-size 4"
    done = petrun(f"rehearse --cards 4 --parallel {flags} {half} --ranks 3 --level 0 --json found.json")
    assert done.code == 0, done.err
    (found,) = json.loads((configs / "found.json").read_text())["ranks"]
    assert found["collectives"]["ReduceScatter"]["count"] and found["dtype"] == "float16"


@pytest.mark.all_only
@pytest.mark.parametrize(
    ("family", "layout", "rows"), [("llama", "dp=2,tp=2,pp=2,zero=1", ORDERS), ("bert", "dp=4,tp=2", REVIEWS)]
)
def test_a_base_cut_by_the_rehearsal_scores_as_the_whole(ascend, tmp_path, monkeypatch, petrun, family, layout, rows):
    """Base by the rehearsal's own strategy, and a delta of that job by it as well."""
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "base", family)
    write_rows(tmp_path / "rows.jsonl", rows)
    flags = "--base base --data rows.jsonl --algo lora --rank 2 --target all-linear --batch-size 2"
    assert petrun(f"train {flags} --steps 1 --out run --set data.eval_split=0").code == 0
    done = petrun(f"rehearse {flags} --cards 8 --parallel {layout} --level 0 --strategy-out job")
    assert done.code == 0, done.err
    assert "cut their parameters: job" in done.out or "cuts its parameters: job" in done.out
    for source, out in (("base", "ckpts"), ("run", "parts")):
        assert petrun(f"reshard --from {source} --to-strategy job --out {out}").code == 0
        assert len(list((tmp_path / out).glob("rank_*"))) == 8
    cut = "--base ckpts --base-strategy job --delta parts --delta-strategy job"
    for name, where in (("whole", "--base base --delta run"), ("cut", cut)):
        assert petrun(f"eval {where} --data rows.jsonl --out {name}.json").code == 0
    whole, pieces = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "cut"))
    assert pieces["base"] == whole["base"] and pieces["delta"] == whole["delta"] and whole["delta"]["loss"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--cards 8", "--strategy-out: nothing is cut by dp=8"),
        ("--cards 8 --parallel pp=2 --ranks 0,1", "--strategy-out: --ranks has none of stage 1"),
        ("--cards 8 --parallel tp=2 --ranks 0 --strategy-out llama", "llama: exists and is not an empty folder"),
    ],
)
def test_strategy_files_that_cannot_be_written(configs, petrun, flags, message):
    out = "" if "--strategy-out" in flags else "--strategy-out job"
    done = petrun(f"rehearse --base llama --seq-len 16 {flags} {out}")
    assert done.code and message in done.err and not (configs / "job").exists()


NET = """
from mindspore import nn

def make():
    return nn.SequentialCell(nn.Flatten(), nn.Dense(12, 3))
"""


@pytest.mark.all_only
def test_a_net_of_the_users_own(ascend, configs, petrun):
    import numpy as np

    (configs / "net.py").write_text(NET)
    np.savez(configs / "rows.npz", x=np.ones((6, 3, 4), np.float32), label=np.arange(6, dtype=np.int32) % 3)
    line = "rehearse --model net.py:make --algo full --cards 2 --batch-size 2 --json found.json"
    missing = petrun(line)
    assert missing.code != 0 and "--data is missing" in missing.err
    done = petrun(f"{line} --data rows.npz")
    assert done.code == 0, done.err
    found = json.loads((configs / "found.json").read_text())
    assert found["shapes"]["arrays"] == {"x": ["float32", [3, 4]]}
    assert all(rank["collectives"]["AllReduce"]["bytes"] >= 4 * (12 * 3 + 3) for rank in found["ranks"])


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ("--cards 4 --ranks 4", 2, "--ranks 4: the job has ranks 0 to 3"),
        ("--cards 4 --ranks one", 2, "--ranks one: must be whole numbers"),
        ("--cards 0", 2, "--cards 0: must be at least 1"),
        ("--cards 4 --set device=cpu", 2, "--set device cpu: a rehearsal is of Ascend cards"),
        ("--cards 4 --parallel dp=3", 2, "--parallel dp=3"),
        ("--cards 4 --parallel tp=3", 2, "tp=3 * pp=1 = 3: does not divide 4 cards"),
        ("--base llama --cards 4 --parallel tp=4", 2, "These divide: --parallel dp=2,tp=2,pp=1"),
        ("--base llama --cards 4 --parallel auto --card-memory 0.0001", 2, "no layout of 4 cards fits"),
        ("--base llama --cards 4 --parallel auto --set parallel.tp=2", 2, "--parallel auto contradicts tp=2"),
        ("--base llama --cards 4 --parallel dp=4 --card-memory 64", 2, "--card-memory 64: only --parallel auto asks"),
        ("--model net.py:make --cards 4 --parallel auto", 2, "does not say its sizes"),
        ("--base nowhere", 1, "nowhere: no such file or folder"),
        ("--level 2", 2, "Invalid value for '--level'"),
        ("--base bert --task lm --seq-len 8", 2, "--task lm: this base does classify"),
        ("--base bert --algo prefix --seq-len 16", 2, "--seq-len 16 is more than the 4 positions"),
        ("--base llama --seq-len 4096", 2, "--seq-len 4096 is more than the 64 positions"),
    ],
)
def test_what_cannot_be_rehearsed(configs, petrun, monkeypatch, line, code, text):
    def never(cache):
        raise AssertionError("refused before anything is built")

    monkeypatch.setattr("petrun.commands.rehearse.ensure_stub", never)
    done = petrun(f"rehearse {line}")
    assert done.code == code and text in done.err, done.err
    assert "Traceback" not in done.err


def test_auto_is_settled_from_config_json_alone(configs):
    typed = {"model.base": ("--base", "llama"), "parallel.auto": ("--parallel", True), "delta.rank": ("--rank", 3)}
    resolved, _ = read_settings(None, typed, ["data.seq_len=32", "train.batch_size=4"])
    settled, why = resolve_auto(resolved, 4)
    assert settled.config.parallel.dp == 4 and not settled.config.parallel.auto
    assert why[-1] == "chosen: dp=4,tp=1,pp=1,zero=0, as the model and its data fit on each card"
    assert resolve_auto(settled, 4) == (settled, ())
    # The same sum as the plan of a run.
    plan = memory_of(
        settled.config, Device("ascend", "bfloat16", None), resolve_layout(settled.config, 4), 32, None
    ).plan()
    assert why[-2] == f"dp=4,tp=1,pp=1,zero=0: {plan}: fits"


def test_a_layout_that_is_not_seen_in_what_was_compiled():
    whole = {"rank": 1, "parameters": [{"slice": [4, 4], "shape": [4, 4]}], "summed_twice": []}
    compile_ranks.require_sharded(Layout(dp=2), [whole])
    compile_ranks.require_sharded(Layout(tp=2), [{**whole, "parameters": [{"slice": [2, 4], "shape": [4, 4]}]}])
    with pytest.raises(SetupError, match="rank 1 of 2: holds every parameter whole"):
        compile_ranks.require_sharded(Layout(tp=2), [whole])
    with pytest.raises(SetupError, match="rank 1 of 2: MindSpore sums the gradients of 1 parameters"):
        compile_ranks.require_sharded(Layout(pp=2, micro_batches=2), [{**whole, "summed_twice": ["norm.weight"]}])


def test_without_a_compiler(configs, petrun, monkeypatch):
    monkeypatch.setenv("PATH", "")
    done = petrun("rehearse --base llama --cards 2 --seq-len 8")
    assert done.code == 1
    assert "g++ and readelf are not found" in done.err and "apt-get install g++ binutils" in done.err


def test_shapes_come_from_the_data_where_it_is_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_base(tmp_path / "bert", "bert")
    write_rows(tmp_path / "reviews.jsonl", REVIEWS)

    def shapes_with(**flags):
        typed = {key.replace("__", "."): (key, value) for key, value in flags.items()}
        resolved, start = read_settings(None, typed, [])
        return shapes.batch_shapes(resolved, start, Layout(dp=2))

    read = shapes_with(model__base="bert", data__path=["reviews.jsonl"], train__batch_size=2)
    assert (read.batch, read.tokens, read.task, read.classes) == (2, 8, "classify", 2)
    assert read.steps == 6 and "of 6 rows" in read.reason
    told = shapes_with(model__base="bert", data__seq_len=20, data__labels=["a", "b", "c"])
    assert (told.tokens, told.classes, told.steps) == (20, 3, 1000)


def test_what_a_ranks_process_said(tmp_path):
    log = tmp_path / "rank_1.log"
    log.write_text(
        "[ERROR] PARALLEL(1,2,python):x [a.cc:1] Check] MatMul: 5 cannot be divided by 2\nTraceback\nlast line\n"
    )
    layout = Layout(dp=1, tp=2)

    def error(outcome, code=0, debug=False):
        return compile_ranks.rank_error(1, layout, outcome, RankExit(code, log), debug)

    failed = error({"failed": "Failure:operator MatMul init failed", "traceback": "the trace"})
    assert failed.message == (
        "rank 1 of 2 (dp=1,tp=2,pp=1,zero=0): MindSpore's front end refuses it: MatMul: 5 cannot be divided by 2; "
        "Failure:operator MatMul init failed"
    )
    assert "the trace" in error({"failed": "x", "traceback": "the trace"}, debug=True).message
    refused = error({"refused": {"kind": "TargetError", "message": "no", "hint": "way out"}})
    assert (type(refused).__name__, refused.message, refused.hint) == ("TargetError", "rank 1 of 2: no", "way out")
    killed = error({}, -9)
    assert "ended with -9" in killed.message and "last line" in killed.message and "memory" in killed.hint


def test_equal_layers_are_one_line():
    def parameter(name, shape, cut, trains=False):
        return {"name": name, "shape": shape, "slice": cut, "dtype": "float32", "trains": trains}

    own = [parameter(f"layers.{i}.q.weight", (8, 4), (2, 4)) for i in range(30)]
    own += [parameter("layers.3.q.lora_a", (2, 4), (2, 4), True), parameter("scale", (), ())]
    assert shard_lines(own) == [
        "layers.*.q.weight  30x  8x4 -> 2x4  float32",
        "layers.*.q.lora_a       2x4 whole   float32  trains",
        "scale                   () whole    float32",
    ]
    assert shard_lines([]) == []
    assert [bytes_text(n) for n in (12, 2048, 3 * 2**20, 5 * 2**29)] == ["12 bytes", "2.0 KiB", "3.0 MiB", "2.5 GiB"]


@pytest.mark.all_only
def test_numbers_of_a_jobs_own_rows(ascend, configs, petrun):
    write_base(configs / "base", "llama")
    write_rows(configs / "rows.jsonl", ORDERS)
    job = "rehearse --base base --data rows.jsonl --algo lora --rank 3 --cards 2 --seq-len 16 --batch-size 2 --compute"
    done = petrun(f"{job} --steps 2 --json found.json")
    assert done.code == 0, done.err
    found = json.loads((configs / "found.json").read_text())
    assert found["shapes"]["are_read"] and found["dtype"] == "float32" and len(found["steps"]) == 2
    for step in found["steps"]:
        assert abs(step["loss"] - step["expected_loss"]) < 1e-5 * step["expected_loss"]
        assert {d["name"] for d in step["values"]} == {d["name"] for d in step["gradients"]} and len(
            step["values"]
        ) == 8
        assert all(d["size"] < 1e-4 for d in (*step["values"], *step["gradients"]))
    assert "on 2 ranks in float32, beside one rank" in done.out


@pytest.mark.all_only
def test_numbers_of_a_base_that_is_shrunk(ascend, configs, petrun):
    before = {path.name for path in configs.iterdir()}
    done = petrun(
        "rehearse --base gpt2 --algo full --cards 2 --parallel dp=1,tp=2 --seq-len 16 --batch-size 2 --compute --shrink 1x16 "
        "--json found.json"
    )
    assert done.code == 0, done.err
    found = json.loads((configs / "found.json").read_text())
    assert not found["shapes"]["are_read"] and len(found["steps"]) == 3
    assert {path.name for path in configs.iterdir()} == {*before, "found.json"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--compute --ranks 0", "--ranks: --compute compiles all 2 ranks"),
        ("--shrink 2x64", "--shrink 2x64: is for --compute"),
        ("--compute --shrink 2", "--shrink 2: must be LAYERSxHIDDEN"),
    ],
)
def test_options_that_contradict_numbers(ascend, configs, petrun, more, words):
    done = petrun(f"rehearse --base llama --cards 2 --seq-len 16 --batch-size 2 {more}")
    assert done.code == 2 and words in done.err
