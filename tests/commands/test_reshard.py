"""`petrun reshard`: between any two layouts and one file, for bases and deltas; every result against plain numpy."""

import json
import shutil

import numpy as np
import pytest

from petrun.checkpoint.delta import MANIFEST_KEY, read_delta
from petrun.tensors import TensorLayout, array_entries, open_tensors, write_ckpt
from petrun.tensors.sharded.note import Note, write_note
from petrun.tensors.sharded.strategy import Strategy, write_strategy
from tests.inference.test_sharded import CUTS, cut_base, cut_delta, net_arrays
from tests.shards import rank_count, shard_of_rank, write_ranks


def write_target(place, arrays, cut, name="to.ckpt"):
    stages = CUTS[cut](arrays)
    write_strategy(place / name, Strategy(place, tuple(stages)))
    return stages


def check_cut(folder, file, arrays, stages):
    """Every rank's file is what plain numpy cuts."""
    for rank in range(rank_count(stages)):
        held = open_tensors(folder / f"rank_{rank}" / file)
        want = {n: shard_of_rank(a, rank, n, stages) for n, a in arrays.items()}
        assert set(held.names) == {n for n, shard in want.items() if shard is not None}
        for name in held.names:
            np.testing.assert_array_equal(held.read(name), want[name])


@pytest.mark.parametrize(
    ("before", "after"), [("dp2_tp4", "dp2_tp2_pp2"), ("dp2_tp2_pp2", "dp8_optimizer"), ("dp8_optimizer", "dp2_tp4")]
)
def test_a_base_between_layouts_and_one_file(place, petrun, before, after):
    arrays = net_arrays(place / "gpt2")
    cut_base(place, "gpt2", before, file="m-10_1.ckpt")
    stages = write_target(place, arrays, after)
    done = petrun(
        "reshard --from ckpts --from-strategy pretrain.ckpt --to-strategy to.ckpt --out cut --format safetensors"
    )
    assert done.code == 0 and "files of 8 ranks" in done.out, done.err
    check_cut(place / "cut", "model.safetensors", arrays, stages)
    # From Hugging Face's names and layout, in which GPT-2's matrices are stored turned.
    assert petrun("reshard --from gpt2 --to-strategy to.ckpt --out again --format ckpt").code == 0
    check_cut(place / "again", "model.ckpt", arrays, stages)
    assert petrun("reshard --from cut --from-strategy to.ckpt --single --out whole").code == 0
    whole = open_tensors(place / "whole" / "model.safetensors")
    assert set(whole.names) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(whole.read(name), array)
    # The folder is a base: what a merge makes of it is what it makes of the original.
    assert petrun("merge --base whole --delta gpt2-lora --out one.ckpt").code == 0
    assert petrun("merge --base gpt2 --delta gpt2-lora --out two.ckpt").code == 0
    assert (place / "one.ckpt").read_bytes() == (place / "two.ckpt").read_bytes()


@pytest.mark.parametrize("out", ["--single --out whole", "--to-strategy other.ckpt --out cut"])
def test_a_base_put_together_by_another_jobs_strategy_is_held_against_config_json(place, petrun, out):
    """Where every rank's shard is another one no content shows it: the embedding came out twice as large, and `verified`."""
    arrays = net_arrays(place / "gpt2")
    cut_base(place, "gpt2", "dp2_tp4")
    write_target(place, arrays, "dp8_optimizer", "other.ckpt")
    done = petrun(f"reshard --from ckpts --from-strategy other.ckpt {out}")
    assert done.code == 1 and "put together by other.ckpt does not fit" in done.err, done.err
    rows, width = arrays["embed.weight"].shape
    assert f"embed.weight is ({rows * 2}, {width // 4}), must be ({rows}, {width})" in done.err
    assert "give the one that the job wrote" in done.err
    assert not (place / "whole").exists() and not (place / "cut").exists()


def test_what_no_config_json_describes_is_said(place, petrun):
    cut_base(place, "gpt2", "dp2_tp4")
    (place / "ckpts" / "config.json").unlink()
    done = petrun("reshard --from ckpts --from-strategy pretrain.ckpt --single --out whole")
    assert done.code == 0 and "shapes were not held against a config.json: ckpts has none" in done.out


def test_a_delta_put_together_by_another_jobs_strategy_is_not_called_damaged(place, petrun):
    delta = read_delta(place / "gpt2-lora")
    arrays = {name: delta.tensors[name] for name in delta.tensors}
    for name, axes in (("own.ckpt", (0, -1)), ("other.ckpt", (-1, 0))):
        stages = [{name: TensorLayout.of((2,), axes) for name in arrays}]
        write_strategy(place / name, Strategy(place, tuple(stages)))
        if name == "own.ckpt":
            write_ranks(place / "parts", arrays, stages, file="lora.ckpt")
    files = tuple(f"rank_{rank}/lora.ckpt" for rank in range(2))
    write_note(place / "parts", Note(files=files, digests=(), metadata={MANIFEST_KEY: delta.manifest.to_json()}))
    assert petrun("reshard --from parts --from-strategy own.ckpt --single --out whole.ckpt").code == 0
    for line in (
        "reshard --from parts --from-strategy other.ckpt --single --out one.ckpt",
        "eval --base gpt2 --delta parts --delta-strategy other.ckpt --data orders.jsonl",
    ):
        done = petrun(line)
        assert done.code == 1 and "put together by other.ckpt" in done.err and "strategy is of another job" in done.err
        assert not (place / "one.ckpt").exists()


def test_one_file_keeps_the_names_of_its_source(place, petrun):
    """Those of Hugging Face here, and of the net where a job's ranks wrote them; both are read as a base."""
    assert petrun("reshard --from gpt2 --single --out same").code == 0
    source, made = (
        open_tensors(place / "gpt2" / "model.safetensors"),
        open_tensors(place / "same" / "model.safetensors"),
    )
    assert set(made.names) == set(source.names) != set(net_arrays(place / "gpt2"))
    for name in source.names:
        np.testing.assert_array_equal(made.read(name), source.read(name))


def test_a_delta_keeps_its_manifest(place, petrun):
    delta = read_delta(place / "gpt2-lora")
    arrays = {name: delta.tensors[name] for name in delta.tensors}
    for cut in ("dp2_tp4", "dp2_tp2_pp2"):
        stages = write_target(place, arrays, cut, f"{cut}.ckpt")
        assert petrun(f"reshard --from gpt2-lora --to-strategy {cut}.ckpt --out {cut}").code == 0
        check_cut(place / cut, "lora.ckpt", arrays, stages)
        assert read_delta(place / cut, place / f"{cut}.ckpt").manifest == delta.manifest
    assert petrun("reshard --from dp2_tp4 --from-strategy dp2_tp4.ckpt --single --out one.ckpt").code == 0
    assert (place / "one.ckpt").read_bytes() == (place / "gpt2-lora" / "lora.ckpt").read_bytes()
    assert (
        petrun("reshard --from dp2_tp4 --from-strategy dp2_tp4.ckpt --to-strategy dp2_tp2_pp2.ckpt --out two").code == 0
    )
    assert (
        petrun("reshard --from two --from-strategy dp2_tp2_pp2.ckpt --single --out run --format safetensors").code == 0
    )
    assert read_delta(place / "run").manifest == delta.manifest
    # Where a job's ranks saved their shards, none of them knew the digest of the whole.
    note = json.loads((place / "two" / "petrun_shards.json").read_text())
    manifest = json.loads(note["metadata"][MANIFEST_KEY])
    note["metadata"][MANIFEST_KEY] = json.dumps({**manifest, "digest": ""})
    (place / "two" / "petrun_shards.json").write_text(json.dumps(note))
    assert petrun("reshard --from two --from-strategy dp2_tp2_pp2.ckpt --single --out three.ckpt").code == 0
    assert read_delta(place / "three.ckpt").manifest == delta.manifest


def test_optimizer_state_comes_along(place, petrun):
    """A slot that the strategies list is cut as they say, a counter is every rank's, and what no layout describes is named."""
    arrays = net_arrays(place / "gpt2")
    name = next(n for n, a in arrays.items() if a.shape == (64, 16))
    held = {**arrays, f"moments.{name}": arrays[name] + 1, "global_step": np.array([7], np.int32)}
    write_ckpt(
        place / "all.ckpt",
        array_entries({**held, "accum.lm_head": np.ones(3, np.float32), f"stat.{name}": np.ones(3, np.float32)}),
    )
    shutil.copy(place / "gpt2" / "config.json", place / "config.json")
    listed = {n: a for n, a in held.items() if n != "global_step"}
    stages = write_target(place, listed, "dp2_tp4")
    done = petrun("reshard --from all.ckpt --to-strategy to.ckpt --out cut")
    assert done.code == 1 and "says nothing of accum.lm_head" in done.err
    write_ckpt(place / "all.ckpt", array_entries({**held, f"stat.{name}": np.ones(3, np.float32)}))
    done = petrun("reshard --from all.ckpt --to-strategy to.ckpt --out cut")
    assert done.code == 0 and f"left out: stat.{name}" in done.out, done.err + done.out
    check_cut(place / "cut", "model.ckpt", held, [{**stages[0], "global_step": TensorLayout.of((2, 4), (-1,))}])


def test_refused(place, refused):
    arrays = net_arrays(place / "gpt2")
    write_target(place, arrays, "dp2_tp4")
    delta = read_delta(place / "gpt2-lora")
    write_target(place, {name: delta.tensors[name] for name in delta.tensors}, "dp2_tp4", "lora.ckpt")
    cut = "reshard --from {} --to-strategy {} --out out"
    refused(cut.format("gpt2", "lora.ckpt"), ["lora.ckpt: says nothing of", "'only_trainable_params': False"])
    refused(cut.format("gpt2-lora", "to.ckpt"), ["to.ckpt: says nothing of", "strategy of its fine-tuning"])
    refused(cut.format("bert", "to.ckpt"), ["to.ckpt: says nothing of"])
    refused(cut.format("nowhere", "to.ckpt"), ["nowhere: no such file or folder"])
    refused(cut.format("gpt2", "nowhere.ckpt"), ["nowhere.ckpt: no such file"])
    refused("reshard --from gpt2 --out out", ["--to-strategy and --single are both missing"], code=2)
    refused(cut.format("gpt2", "to.ckpt") + " --single", ["--to-strategy and --single contradict"], code=2)
    refused(cut.format("gpt2", "to.ckpt") + " --format bin", ["--format bin is unknown"], code=2)
    refused(cut.format("gpt2", "to.ckpt") + ".ckpt", ["--out out.ckpt: the ranks' files need a folder"], code=2)
    refused("reshard --from gpt2 --single --out bert", ["bert: exists and is not an empty folder"])
    refused("reshard --from gpt2 --single --out reviews.jsonl", ["reviews.jsonl: exists"])
    refused(
        "reshard --from gpt2 --single --out x.ckpt --format safetensors", ["contradicts --format safetensors"], code=2
    )
    write_target(place, {**arrays, "more.weight": np.ones((8, 8), np.float32)}, "dp2_tp4")
    refused(cut.format("gpt2", "to.ckpt"), ["gpt2: lacks more.weight, which to.ckpt lists"])
    stages = write_target(place, arrays, "dp2_tp4")
    name = next(n for n, a in arrays.items() if a.shape == (258, 16))
    write_strategy(place / "to.ckpt", {**stages[0], name: TensorLayout.of((2, 4), (0, -1))})
    refused(cut.format("gpt2", "to.ckpt"), [f"{name} [258, 16]: its dimension 0, 258, does not divide by 4"])


def test_shards_without_their_strategy(place, refused):
    cut_base(place, "gpt2", "dp2_tp4")
    cut_delta(place, "gpt2", "dp2_tp4", note=False)
    for source in ("ckpts", "parts"):
        said = [f"{source}: holds the files of a job's ranks", "--from-strategy FILE"]
        refused(f"reshard --from {source} --single --out out", said)
        refused(f"inspect {source}", [said[0], "the job's strategy file"])
    refused(
        "reshard --from parts --from-strategy pretrain.ckpt --single --out out",
        ["pretrain.ckpt: says nothing of", "--delta-strategy"],
    )


def test_a_strategy_can_be_looked_at(place, petrun):
    weight = TensorLayout.of((2, 4), (0, -1), opt_size=-1)
    write_strategy(place / "cut.ckpt", {"w": weight, "b": TensorLayout.of((2, 4), (-1,))})
    stages = ({"x.w": TensorLayout.of((2, 2), (-1, 1))}, {"y.b": TensorLayout.of((2, 2), (-1,))})
    write_strategy(place / "stages.json", Strategy(place, stages))
    one, two = petrun("inspect cut.ckpt"), petrun("inspect stages.json")
    assert (one.code, two.code) == (0, 0)
    lines = [line.split(maxsplit=1) for line in (one.out + two.out).splitlines()]
    assert [line for line in lines[: len(one.out.splitlines())] if line[0] in ("kind", "ranks", "w", "b")] == [
        ["kind", "strategy"],
        ["ranks", "8"],
        ["w", "in 8 x 1, 2 of it by the optimizer parallel"],
        ["b", "whole"],
    ]
    assert ["x.w", "in 1 x 2, on stage 0"] in lines and ["y.b", "whole, on stage 1"] in lines
