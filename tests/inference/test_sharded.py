"""Base and delta in the files of a job's ranks: the same scores as unsharded, to the last bit, and no way to load the wrong thing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from petrun.checkpoint.delta import MANIFEST_KEY, read_delta
from petrun.models.factory import read_family
from petrun.models.weights import match
from petrun.tensors import TensorLayout, array_entries, open_tensors, write_ckpt
from petrun.tensors.sharded.note import Note, write_note
from petrun.tensors.sharded.strategy import Strategy, read_strategy, write_strategy
from tests.conftest import ROOT
from tests.shards import dp2_tp2_pp2, dp2_tp4, dp8_optimizer, write_ranks

CUTS = {
    "dp2_tp4": dp2_tp4,
    "dp8_optimizer": dp8_optimizer,
    "dp2_tp2_pp2": lambda arrays: dp2_tp2_pp2(
        arrays, lambda name: ".1." in name or "norm_f" in name or "final" in name
    ),
}
EVAL = "eval --data {rows}.jsonl --batch-size 4 --out {out}.json"


def net_arrays(folder):
    """A base's parameters in the net's own names and layout, as a MindSpore job saves them."""
    _, family, parsed = read_family(folder, None)
    reader = open_tensors(folder)
    found = match(reader, family.names(parsed), family.prefixes, family.ignored).found
    return {
        ours: np.array(reader.read(s.stored).T if s.transpose else reader.read(s.stored), order="C")
        for ours, s in found.items()
    }


def cut_base(place, family, cut, *, strategy="pretrain.ckpt", **options):
    """ckpts/rank_N and config.json beside them."""
    arrays = net_arrays(place / family)
    stages = CUTS[cut](arrays)
    write_strategy(place / strategy, Strategy(place, tuple(stages)))
    write_ranks(place / "ckpts", arrays, stages, **options)
    for file in (place / family).iterdir():
        if file.suffix == ".json":
            shutil.copy(file, place / "ckpts")
    return stages


def cut_delta(place, family, cut, *, note=True, strategy="finetune.ckpt", names=lambda name: name, **options):
    """parts/rank_N; petrun's own manifest beside them, or not, as MindPet saves."""
    delta = read_delta(place / f"{family}-lora")
    arrays = {names(name): delta.tensors[name] for name in delta.tensors}
    stages = CUTS[cut](arrays)
    write_strategy(place / strategy, Strategy(place, tuple(stages)))
    write_ranks(place / "parts", arrays, stages, file="lora.ckpt", **options)
    if note:
        files = tuple(f"rank_{rank}/lora.ckpt" for rank in range(8))
        write_note(place / "parts", Note(files=files, digests=(), metadata={MANIFEST_KEY: delta.manifest.to_json()}))
    return stages


def scores(path):
    found = json.loads(Path(path).read_text())
    return {key: value for key, value in found.items() if key != "seconds"}


SHARDED = "--base ckpts --base-strategy {base} --delta parts --delta-strategy {delta}"


@pytest.mark.parametrize(
    ("family", "rows", "cuts"),
    [("bert", "reviews", {"dp2_tp4": "json", "dp8_optimizer": "ckpt"}), ("gpt2", "orders", {"dp2_tp2_pp2": "ckpt"})],
)
def test_scores_are_those_of_the_unsharded(place, petrun, family, rows, cuts):
    line = EVAL.format(rows=rows, out="{out}")
    assert petrun(line.format(out="whole") + f" --base {family} --delta {family}-lora").code == 0
    for cut, ending in cuts.items():
        cut_base(place, family, cut, strategy=f"pretrain.{ending}", file="net_rank_{rank}-10_1.ckpt")
        cut_delta(place, family, cut, strategy=f"finetune.{ending}")
        cut_flags = SHARDED.format(base=f"pretrain.{ending}", delta=f"finetune.{ending}")
        done = petrun(line.format(out="cut") + " " + cut_flags)
        assert done.code == 0, done.err
        assert scores("cut.json") == scores("whole.json") and scores("whole.json")["delta"]["loss"] > 0
        if cut == "dp8_optimizer":
            predict = "predict --data reviews.jsonl --batch-size 4 --out {}.jsonl "
            assert petrun(predict.format("whole") + "--base bert --delta bert-lora").code == 0
            assert petrun(predict.format("cut") + cut_flags).code == 0
            assert (place / "cut.jsonl").read_bytes() == (place / "whole.jsonl").read_bytes()
        shutil.rmtree(place / "ckpts")
        shutil.rmtree(place / "parts")


def compile_strategy(ascend, place, what):
    """One stage: any rank writes the strategy of all."""
    environment = ascend(0, 8, 0)
    environment["PYTHONPATH"] = f"{ROOT}:{environment['PYTHONPATH']}"
    command = [
        sys.executable,
        "-m",
        "tests.parallel.job_strategy",
        str(place / "gpt2"),
        str(place / f"{what}.ckpt"),
        what,
    ]
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return list(read_strategy(place / f"{what}.ckpt").stages)


def evaluate_with(ascend, place, petrun, base_job):
    """Base cut by one job's strategy file and delta by the fine-tuning's, as MindSpore's compiler wrote them for petrun's own net."""
    delta = read_delta(place / "gpt2-lora")
    finetune = compile_strategy(ascend, place, "finetune")
    stages = finetune if base_job == "finetune" else compile_strategy(ascend, place, base_job)
    arrays = net_arrays(place / "gpt2")
    assert set(arrays) | set(delta.tensors) <= set(finetune[0]), "the frozen parameters as well"
    assert sum(layout.splits != (1,) * len(layout.splits) for n, layout in stages[0].items() if n in arrays) >= 4
    write_ranks(place / "ckpts", arrays, stages)
    write_ranks(place / "parts", dict(delta.tensors), finetune, file="lora.ckpt")
    for file in (place / "gpt2").glob("*.json"):
        shutil.copy(file, place / "ckpts")
    line = EVAL.format(rows="orders", out="{out}")
    cut = (
        SHARDED.format(base=f"{base_job}.ckpt", delta="finetune.ckpt")
        + f" --alpha {delta.config['alpha']} --task instruct"
    )
    # Without a note the delta says neither task nor length of its rows: parts as MindPet saves them.
    assert petrun(line.format(out="whole") + " --base gpt2 --delta gpt2-lora").code == 0
    done = petrun(line.format(out="cut") + " " + cut)
    assert done.code == 0, done.err
    assert scores("cut.json") == scores("whole.json")


def test_scores_with_the_compilers_own_strategy(ascend, place, petrun):
    evaluate_with(ascend, place, petrun, "finetune")


@pytest.mark.all_only
def test_scores_with_the_compilers_own_strategies(ascend, place, petrun):
    """The base as data parallel pre-training with the optimizer parallel cut it."""
    evaluate_with(ascend, place, petrun, "pretrain")


MERGE = "merge --out {out} " + SHARDED.format(base="pretrain.ckpt", delta="finetune.ckpt")


def merged(path):
    reader = open_tensors(path)
    return {name: reader.read_raw(name) for name in reader.names}


@pytest.mark.parametrize("cut", CUTS)
def test_a_merge_is_that_of_the_unsharded(place, petrun, cut):
    cut_base(place, "gpt2", cut, file="m-10_1.safetensors")
    cut_delta(place, "gpt2", cut)
    assert petrun("merge --base gpt2 --delta gpt2-lora --out whole").code == 0
    assert petrun(MERGE.format(out="cut")).code == 0
    assert merged("cut") == merged("whole")
    assert (place / "cut" / "config.json").read_text() == (place / "whole" / "config.json").read_text()
    assert (place / "cut" / "tokenizer.json").exists()


def test_parts_of_mindpet(place, petrun):
    """Trainable-only checkpoints of MindPet, every rank's its pieces: no manifest, optimizer state beside, older steps beside."""

    def saved(rank, pieces):
        # The optimizer's slots, cut like their parameters, and its counters, which no layout lists.
        counters = {"global_step": np.array([7], np.int32), "learning_rate": np.array(0.5, np.float32)}
        return {**pieces, **{f"moment1.{name}": piece for name, piece in pieces.items()}, **counters}

    cut_base(place, "gpt2", "dp2_tp4")
    stages = cut_delta(place, "gpt2", "dp2_tp4", note=False, change=saved)
    write_strategy(
        place / "finetune.ckpt", {**stages[0], **{f"moment1.{name}": lay for name, lay in stages[0].items()}}
    )
    for rank in range(8):
        folder = place / "parts" / f"rank_{rank}"
        (folder / "lora.ckpt").rename(folder / "DELTA_CKP-10_2.ckpt")
        write_ckpt(folder / "DELTA_CKP-9_2.ckpt", array_entries({"old": np.ones(3, np.float32)}))
    done = petrun(MERGE.format(out="cut.ckpt"))
    assert done.code == 1 and "do not hold alpha" in done.err
    alpha = read_delta(place / "gpt2-lora").config["alpha"]
    assert petrun(MERGE.format(out="cut.ckpt") + f" --alpha {alpha}").code == 0
    assert petrun("merge --base gpt2 --delta gpt2-lora --out whole.ckpt").code == 0
    assert merged("cut.ckpt") == merged("whole.ckpt")


def test_training_on_a_cut_base_from_a_cut_delta(place, petrun):
    """What comes of it belongs to the unsharded base as well: its identity is that of the content."""
    cut_base(place, "bert", "dp2_tp4")
    cut_delta(place, "bert", "dp2_tp4")
    line = "train --data reviews.jsonl --steps 1 --batch-size 3 --out cut --init-delta parts --delta-strategy finetune.ckpt "
    done = petrun(line + "--base ckpts --base-strategy pretrain.ckpt")
    assert done.code == 0, done.err
    start, trained = read_delta(place / "bert-lora"), read_delta(place / "cut")
    assert trained.manifest.base.digest == start.manifest.base.digest and trained.config == start.config
    moved = [np.abs(trained.tensors[name] - start.tensors[name]).max() for name in start.tensors]
    assert 0 < max(moved) < 0.1, "one step from where the cut delta was"
    assert "base_strategy: pretrain.ckpt" in (place / "cut" / "run.yaml").read_text()
    assert petrun("merge --base bert --delta cut --out merged.ckpt").code == 0


class TestRefused:
    """Each of these is loaded, or loaded in part, by load_distributed_checkpoint, which then returns True."""

    @pytest.fixture
    def cut(self, place):
        cut_base(place, "bert", "dp2_tp4")
        cut_delta(place, "bert", "dp2_tp4", note=False)
        return place

    def swap(self, folder, one=0, other=1):
        (folder / f"rank_{one}").rename(folder / "aside")
        (folder / f"rank_{other}").rename(folder / f"rank_{one}")
        (folder / "aside").rename(folder / f"rank_{other}")

    def test_swapped_ranks_of_the_base(self, cut, refused):
        self.swap(cut / "ckpts")
        refused(MERGE.format(out="out") + " --alpha 16", ["ckpts: ranks 0, 4 must hold the same shard", "wrong order"])

    def test_swapped_ranks_of_the_delta(self, cut, refused):
        self.swap(cut / "parts")
        refused(MERGE.format(out="out") + " --alpha 16", ["parts: ranks 0, 4 must hold the same shard", "wrong order"])

    def test_a_manifest_proves_the_order_that_no_replica_proves(self, place, refused):
        """Tensor parallel alone over 8: every piece is held once."""
        cut_base(place, "gpt2", "dp2_tp4")
        delta = read_delta(place / "gpt2-lora")
        stages = [{name: TensorLayout.of((8,), [0, -1] if name.endswith("_b") else [-1, -1]) for name in delta.tensors}]
        write_strategy(place / "finetune.ckpt", stages[0])
        write_ranks(place / "parts", dict(delta.tensors), stages, file="lora.ckpt")
        files = tuple(f"rank_{rank}/lora.ckpt" for rank in range(8))
        write_note(place / "parts", Note(files=files, digests=(), metadata={MANIFEST_KEY: delta.manifest.to_json()}))
        self.swap(place / "parts")
        refused(
            MERGE.format(out="out"),
            ["parts: put together by finetune.ckpt, its tensors are not those it was saved with"],
        )

    def test_the_bases_identity_proves_its_order(self, place, refused):
        """The same of a base: the delta knows the digest of the whole."""
        arrays = net_arrays(place / "gpt2")
        stages = [
            {
                n: TensorLayout.of((2,), ([0, -1] if a.shape[0] % 2 == 0 and a.ndim == 2 else [-1, -1])[: a.ndim])
                for n, a in arrays.items()
            }
        ]
        write_strategy(place / "pretrain.ckpt", stages[0])
        write_ranks(place / "ckpts", arrays, stages)
        shutil.copy(place / "gpt2" / "config.json", place / "ckpts")
        self.swap(place / "ckpts")
        line = "merge --base ckpts --base-strategy pretrain.ckpt --delta gpt2-lora --out out"
        refused(line, ["was trained on a base with other content"])

    def test_the_delta_under_the_bases_strategy(self, cut, refused):
        line = "merge --out out --base bert --delta parts --delta-strategy pretrain.ckpt --alpha 16"
        refused(line, ["pretrain.ckpt: says nothing of", "lora_a", "--delta-strategy"])

    def test_a_strategy_of_the_trained_alone_over_the_base(self, cut, refused):
        line = "merge --out out --base ckpts --base-strategy finetune.ckpt --delta bert-lora"
        refused(line, ["finetune.ckpt: says nothing of", "'only_trainable_params': False", "pre-training"])

    def test_a_strategy_without_layouts(self, cut, refused):
        (cut / "pretrain.json").write_text(
            '{"current_stage": 1, "parallel_layout_item": {}, "parallel_strategy_item": {}}'
        )
        refused(
            "eval --data reviews.jsonl --base ckpts --base-strategy pretrain.json", ["pretrain.json: holds no layouts"]
        )

    def test_a_slot_is_no_parameter(self, cut, refused):
        """load_param_into_net puts adam_m.q.weight into q.weight where the file lacks that, and says it was loaded."""
        name = next(name for name in net_arrays(cut / "bert") if name.endswith("attn.q.weight"))

        def moved(rank, pieces):
            return {f"adam_m.{n}" if n == name else n: piece for n, piece in pieces.items()}

        stages = cut_base(cut, "bert", "dp2_tp4", change=moved)
        for more in ({}, {f"adam_m.{name}": stages[0][name]}):
            write_strategy(cut / "pretrain.ckpt", {**stages[0], **more})
            line = "eval --data reviews.jsonl --base ckpts --base-strategy pretrain.ckpt --delta bert-lora"
            refused(line, ["ckpts: does not fit the model", "query.weight (16, 16) is missing"])

    def test_one_stage_of_a_pipeline(self, place, refused):
        stages = cut_base(place, "gpt2", "dp2_tp2_pp2")
        write_strategy(place / "pretrain.ckpt", stages[0])
        line = "eval --data orders.jsonl --base ckpts --base-strategy pretrain.ckpt"
        refused(
            line,
            ["holds 8 ranks, up to rank 7; the strategy is of 4", "the folder that holds them, or the merged file"],
        )

    def test_one_rank_instead_of_all(self, cut, refused):
        """MindSpore takes rank 0's piece for the whole where its strategy does not list it."""
        for file in (cut / "bert").glob("*.json"):
            shutil.copy(file, cut / "ckpts" / "rank_0")
        refused(
            "eval --data reviews.jsonl --base ckpts/rank_0/model.ckpt", ["does not fit the model", "must be (14, 16)"]
        )

    def test_flags(self, cut, refused):
        eval_ = "eval --data reviews.jsonl "
        refused(eval_ + "--base ckpts", ["ckpts: holds the files of a job's ranks", "--base-strategy FILE"])
        refused(
            eval_ + "--base bert --delta parts", ["parts: holds the files of a job's ranks", "--delta-strategy FILE"]
        )
        refused(
            eval_ + "--base bert --base-strategy pretrain.ckpt",
            ["model.safetensors does not say of which rank it is", "{rank}"],
        )
        refused(eval_ + "--base bert/model.safetensors --base-strategy pretrain.ckpt", ["is one file"])
        refused(eval_ + "--base-strategy pretrain.ckpt", ["--base-strategy pretrain.ckpt", "no base is given"], code=2)
        refused(eval_ + "--base bert --delta-strategy x.ckpt", ["--delta-strategy x.ckpt", "no delta is given"], code=2)
        refused(eval_ + "--base ckpts --base-strategy nowhere.ckpt", ["nowhere.ckpt: no such file"])
        refused(eval_ + "--base ckpts --base-strategy bert/config.json", ["bert/config.json: is not a strategy file"])
        refused(eval_ + "--base ckpts --base-strategy ckpts/rank_0/model.ckpt", ["model.ckpt: is not a strategy file"])
        (cut / "ckpts" / "config.json").unlink()
        refused(
            eval_ + "--base ckpts --base-strategy pretrain.ckpt",
            ["config.json: no such file", "--set model.config=PATH"],
        )

    def test_the_model_does_not_know_the_parameters(self, cut, refused):
        (cut / "ckpts" / "config.json").write_text((cut / "gpt2" / "config.json").read_text())
        refused(
            "eval --data orders.jsonl --base ckpts --base-strategy pretrain.ckpt",
            ["ckpts: does not fit the model", "wte.weight (258, 16) is missing"],
        )
