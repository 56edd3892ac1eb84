"""The files of all ranks as one checkpoint: equal to what was sharded, and every silent failure of MindSpore's loading refused."""

import shutil
import tracemalloc
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from petrun.errors import WeightsError
from petrun.tensors import (
    TensorLayout,
    array_entries,
    open_tensors,
    tensor_digest,
    to_bfloat16,
    write_ckpt,
    write_safetensors,
)
from petrun.tensors.sharded.checkpoint import open_sharded
from petrun.tensors.sharded.ranks import is_sharded, root_of
from petrun.tensors.sharded.strategy import Strategy, write_strategy
from tests.shards import dp2_tp2_pp2, dp2_tp4, dp8_optimizer, rank_count, shard_of_rank, write_ranks

RNG = np.random.default_rng(3)
ARRAYS = {
    "embed.table": RNG.standard_normal((16, 8)).astype(np.float32),
    "layers.0.up.weight": RNG.standard_normal((32, 8)).astype(np.float32),
    "layers.0.down.weight": RNG.standard_normal((6, 32)).astype(np.float32),
    "layers.0.norm.weight": RNG.standard_normal(8).astype(np.float32),
    "layers.1.up.weight": RNG.standard_normal((32, 8)).astype(np.float32),
    "layers.1.count": np.arange(16, dtype=np.int64),
    "scale": np.array(3.5, np.float32),
}
STATE = ("adam_m.*", "learning_rate", "global_step")
LAYOUTS = {
    "dp2_tp4": dp2_tp4(ARRAYS),
    "dp2_tp4_opt": dp2_tp4(ARRAYS, opt_size=2),
    "dp8_opt": dp8_optimizer(ARRAYS),
    "dp2_tp2_pp2": dp2_tp2_pp2(ARRAYS, lambda name: name.startswith("layers.1"), both=("embed.table", "scale")),
}


def job(tmp_path, layout="dp2_tp4", arrays=ARRAYS, **options):
    """(folder of the ranks, strategy file)"""
    stages = LAYOUTS[layout] if isinstance(layout, str) else layout
    write_strategy(tmp_path / "strategy.ckpt", Strategy(tmp_path, tuple(stages)))
    return write_ranks(tmp_path / "ckpts", arrays, stages, **options), tmp_path / "strategy.ckpt"


def refused(folder, strategy, *said, hint="", spare=STATE):
    """Opened and read through."""
    with pytest.raises(WeightsError) as caught:
        reader = open_sharded(folder, strategy, spare)
        for name in reader.names:
            reader.read(name)
    message = " ".join(caught.value.message.split())
    for words in said:
        assert words in message, message
    assert hint in caught.value.hint


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
def test_whole_again(tmp_path, layout, ending):
    folder, strategy = job(tmp_path, layout, file=f"model.{ending}")
    reader = open_sharded(folder, strategy)
    assert set(reader.names) == set(ARRAYS) and reader.kind == "ckpt"
    write_ckpt(tmp_path / "whole.ckpt", array_entries(ARRAYS))
    whole = open_tensors(tmp_path / "whole.ckpt")
    for name, array in ARRAYS.items():
        assert reader.info(name) == whole.info(name)
        np.testing.assert_array_equal(reader.read(name), array)
        assert reader.read_raw(name) == array.tobytes()
        assert tensor_digest(reader, name) == tensor_digest(whole, name)


def test_half_precision_and_what_mindspore_writes(tmp_path):
    arrays = {name: a for name, a in ARRAYS.items() if a.dtype == np.float32}
    folder, strategy = job(tmp_path, dp2_tp4(arrays), arrays, dtype="bfloat16")
    reader = open_sharded(folder, strategy)
    for name, array in arrays.items():
        assert reader.info(name).dtype == "bfloat16"
        np.testing.assert_array_equal(reader.read_stored(name), to_bfloat16(array))
    stages = LAYOUTS["dp2_tp4"]
    for rank in range(8):
        shards = {n: shard_of_rank(a, rank, n, stages) for n, a in ARRAYS.items()}
        data = [{"name": name, "data": Tensor(shard)} for name, shard in shards.items()]
        ms.save_checkpoint(data, str(folder / f"rank_{rank}" / "model.ckpt"), append_dict={"epoch_num": 3})
    write_strategy(strategy, stages[0])
    reader = open_sharded(folder, strategy, spare=("epoch_num",))
    assert reader.read("epoch_num") == 3
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(reader.read(name), array)


def test_optimizer_state(tmp_path):
    """What is one number stays; a slot without a layout is left out, and never taken for its parameter."""

    def with_state(rank, shards):
        state = {"adam_m.scale": np.ones(2, np.float32), "learning_rate": np.array(0.1, np.float32)}
        return {**{n: p for n, p in shards.items() if n != "scale"}, **state}

    folder, strategy = job(tmp_path, change=with_state)
    reader = open_sharded(folder, strategy, STATE)
    assert set(reader.names) == set(ARRAYS) - {"scale"} | {"learning_rate"}
    assert reader.dropped == ("adam_m.scale",)
    refused(folder, strategy, "says nothing of 2 tensors: adam_m.scale, learning_rate", spare=())


def test_swapped_ranks(tmp_path):
    """load_distributed_checkpoint puts the shards together in the order given: wrong weights, and True."""
    folder, strategy = job(tmp_path)
    swap(folder, 0, 1)
    refused(folder, strategy, "must hold the same shard of", "rank 0 holds what rank 5 holds", hint="wrong order")


def swap(folder, one, other):
    (folder / f"rank_{one}").rename(folder / "aside")
    (folder / f"rank_{other}").rename(folder / f"rank_{one}")
    (folder / "aside").rename(folder / f"rank_{other}")


def test_swapped_stages(tmp_path):
    folder, strategy = job(tmp_path, "dp2_tp2_pp2")
    swap(folder, 1, 5)
    refused(
        folder,
        strategy,
        "rank 5 holds layers.0.up.weight, which is of pipeline stage 0",
        "rank 1 holds layers.1.up.weight",
    )


def test_a_name_that_says_another_rank(tmp_path):
    """Tensor parallel alone: no shard is held twice, and only names tell the order."""
    stages = [{n: TensorLayout.of((4,), [0, -1][: a.ndim]) for n, a in ARRAYS.items() if a.shape[:1] == (32,)}]
    arrays = {n: ARRAYS[n] for n in stages[0]}
    folder, strategy = job(tmp_path, stages, arrays, file="net_rank_{rank}-1_1.ckpt")
    open_sharded(folder, strategy)
    swap(folder, 2, 3)
    refused(folder, strategy, "lies in the folder of rank 2, and its name says rank 3")


def test_replicas_that_differ(tmp_path):
    def off(rank, shards):
        return {**shards, "layers.0.norm.weight": shards["layers.0.norm.weight"] + (rank == 5)}

    folder, strategy = job(tmp_path, change=off)
    refused(folder, strategy, "layers.0.norm.weight, and rank 5 differs", hint="different steps or jobs")


def test_stages_that_share(tmp_path):
    def off(rank, shards):
        return {**shards, "embed.table": shards["embed.table"] + (rank >= 4)}

    folder, strategy = job(tmp_path, "dp2_tp2_pp2", change=off)
    refused(folder, strategy, "pipeline stages 0 and 1 share embed.table, and theirs differ")


def test_another_jobs_strategy(tmp_path):
    """A delta under the base's strategy, a base under its LoRA job's: MindSpore loads nothing or a slice, and returns True."""
    delta = {
        "q.mindpet_delta_lora_a": np.ones((4, 8), np.float32),
        "q.mindpet_delta_lora_b": np.ones((8, 4), np.float32),
    }
    (tmp_path / "base").mkdir()
    (tmp_path / "delta").mkdir()
    base_files, base_strategy = job(tmp_path / "base")
    delta_files, delta_strategy = job(tmp_path / "delta", dp2_tp4(delta), delta)
    refused(delta_files, base_strategy, "says nothing of 2 tensors: q.mindpet_delta_lora_a", hint="--delta-strategy")
    refused(base_files, delta_strategy, "says nothing of 7 tensors: embed.table", hint="'only_trainable_params': False")
    both = job(tmp_path, dp2_tp4({**ARRAYS, **delta}), {**ARRAYS, **delta})[0]
    refused(both, delta_strategy, "says nothing of 7 tensors", hint="lists only trained parameters")


def test_incomplete(tmp_path):
    folder, strategy = job(tmp_path)
    shutil.move(folder / "rank_3", folder / "aside")
    refused(folder, strategy, "lacks rank 3; the strategy is of 8 ranks, 0 to 7")
    (folder / "rank_3").mkdir()
    refused(folder, strategy, "rank_3: holds no .ckpt or .safetensors file")
    shutil.copy(folder / "aside" / "model.ckpt", folder / "rank_3" / "model.ckpt")
    shutil.copytree(folder / "rank_3", folder / "rank_03")
    refused(folder, strategy, "rank_03 and rank_3 are both rank 3")
    shutil.move(folder / "rank_03", folder / "rank_8")
    refused(folder, strategy, "holds 9 ranks, up to rank 8; the strategy is of 8")
    shutil.rmtree(folder / "rank_8")
    write_safetensors(folder / "rank_3" / "model.safetensors", array_entries({"a": np.ones(1, np.float32)}))
    (folder / "rank_3" / "model.ckpt").unlink()
    refused(folder, strategy, "some ranks have .ckpt files and others .safetensors")
    refused(tmp_path / "nowhere", strategy, "no such folder")
    refused(strategy, strategy, "is one file, where a strategy asks for the files of every rank")
    refused(tmp_path / "ckpts" / "aside", strategy, "model.ckpt does not say of which rank it is")


def test_one_stage_of_a_pipeline(tmp_path):
    """MindSpore counts the devices of the first layout, those of one stage, and stops at the files of all."""
    folder, _ = job(tmp_path, "dp2_tp2_pp2")
    write_strategy(tmp_path / "stage_0.ckpt", LAYOUTS["dp2_tp2_pp2"][0])
    refused(folder, tmp_path / "stage_0.ckpt", "holds 8 ranks, up to rank 7; the strategy is of 4", hint="2 stages")


def test_tensors_that_do_not_fit(tmp_path):
    def thin(rank, shards):
        return {**shards, "embed.table": shards["embed.table"][:2] if rank == 6 else shards["embed.table"]}

    folder, strategy = job(tmp_path, change=thin)
    refused(folder, strategy, "embed.table is float32 [4, 8] on rank 0 and float32 [2, 8] on rank 6")

    def lacking(rank, shards):
        return {n: p for n, p in shards.items() if (n, rank) != ("scale", 2)}

    folder, strategy = job(tmp_path, change=lacking)
    refused(folder, strategy, "rank 2 lacks scale, which rank 0 holds")
    other = {**LAYOUTS["dp2_tp4"][0], "scale": TensorLayout.of((2, 4), (0,))}
    write_strategy(strategy, other)
    write_ranks(folder, ARRAYS, LAYOUTS["dp2_tp4"])
    refused(folder, strategy, "scale has 0 dimensions, its tensor map 1")


def test_json_knows_the_whole_shape(tmp_path):
    folder, _ = job(tmp_path)
    said = {
        n: TensorLayout(devices=lay.devices, axes=lay.axes, shape=ARRAYS[n].shape)
        for n, lay in LAYOUTS["dp2_tp4"][0].items()
    }
    write_strategy(tmp_path / "s.json", said)
    assert set(open_sharded(folder, tmp_path / "s.json").names) == set(ARRAYS)
    write_strategy(
        tmp_path / "s.json", {**said, "embed.table": TensorLayout(devices=(2, 4), axes=((0,), ()), shape=(32, 8))}
    )
    refused(folder, tmp_path / "s.json", "embed.table: shards of [4, 8] make [16, 8], the strategy says [32, 8]")
    # What MindSpore writes for a dimension that is sharded along two axes.
    write_strategy(
        tmp_path / "s.json",
        {**said, "embed.table": TensorLayout(devices=(2, 4), axes=((1,), (0,), ()), shape=(2, 8, 8))},
    )
    refused(folder, tmp_path / "s.json", "embed.table has 2 dimensions, its tensor map 3 (JSON cannot say")


def test_the_newest_step_of_all_ranks(tmp_path):
    """The older step is another tensor: the numbers decide, not the alphabet."""
    old = {name: array + 1 for name, array in ARRAYS.items()}
    folder, strategy = job(tmp_path, file="m-10_1.ckpt")
    job(tmp_path, arrays=old, file="m-9_1.ckpt")
    np.testing.assert_array_equal(open_sharded(folder, strategy).read("scale"), ARRAYS["scale"])
    chosen = open_sharded(folder / "rank_{rank}" / "m-9_1.ckpt", strategy)
    np.testing.assert_array_equal(chosen.read("scale"), old["scale"])
    (folder / "rank_2" / "m-10_1.ckpt").unlink()
    refused(
        folder,
        strategy,
        "the newest checkpoint of rank 0 is m-10_1.ckpt, that of rank 2 is m-9_1.ckpt",
        hint="ended while it saved",
    )
    refused(folder / "rank_{rank}" / "m-10_1.ckpt", strategy, "rank_2/m-10_1.ckpt: no such file")
    shutil.copy(folder / "rank_2" / "m-9_1.ckpt", folder / "rank_2" / "last.ckpt")
    refused(folder, strategy, "do not say which is the newest", hint="{rank}")


def test_files_of_all_ranks_in_one_folder(tmp_path):
    folder, strategy = job(tmp_path, "dp8_opt")
    flat = tmp_path / "flat"
    flat.mkdir()
    for rank in range(rank_count(LAYOUTS["dp8_opt"])):
        shutil.copy(folder / f"rank_{rank}" / "model.ckpt", flat / f"net_rank{rank}-10_1.ckpt")
        shutil.copy(folder / f"rank_{(rank + 1) % 8}" / "model.ckpt", flat / f"net_rank{rank}-9_1.ckpt")
        shutil.copy(folder / f"rank_{rank}" / "model.ckpt", tmp_path / f"net{rank}.ckpt")
    for path in (flat, tmp_path / "net{rank}.ckpt", folder / "rank_{rank}"):
        reader = open_sharded(path, strategy)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(reader.read(name), array)
        assert is_sharded(path)
    assert is_sharded(folder) and not is_sharded(tmp_path) and not is_sharded(strategy)
    assert root_of(folder / "rank_{rank}" / "m.ckpt") == folder and root_of(folder) == folder
    shutil.copy(tmp_path / "net0.ckpt", tmp_path / "net8.ckpt")
    refused(tmp_path / "net{rank}.ckpt", strategy, "holds 9 ranks")


def test_memory_is_bounded_by_a_tensor(tmp_path):
    arrays = {f"w{i}": np.full((512, 512), i, np.float32) for i in range(12)}
    folder, strategy = job(tmp_path, dp2_tp4(arrays), arrays)
    tracemalloc.start()
    reader = open_sharded(folder, strategy)
    for name in reader.names:
        reader.read(name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * arrays["w0"].nbytes


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.w = Parameter(Tensor(np.zeros((8, 8), np.float32)), name="w")
        self.a = Parameter(Tensor(np.zeros((8, 4), np.float32)), name="a.mindpet_delta_lora_a")


def test_what_mindspore_lets_pass(tmp_path):
    """Pairs of files and strategy that petrun refuses above: load_distributed_checkpoint returns True, and the base is not loaded."""
    base = {"w": np.arange(64, dtype=np.float32).reshape(8, 8) + 1}
    arrays = {**base, "a.mindpet_delta_lora_a": np.ones((8, 4), np.float32)}
    (stage,) = dp2_tp4(arrays)
    write_ranks(tmp_path / "ckpts", arrays, [stage])
    files = [str(tmp_path / "ckpts" / f"rank_{rank}" / "model.ckpt") for rank in range(8)]
    write_strategy(tmp_path / "full.ckpt", stage)
    write_strategy(tmp_path / "lora.ckpt", {n: lay for n, lay in stage.items() if n not in base})
    (tmp_path / "none.ckpt").write_bytes(b"\x08\x01")
    for ordered, strategy, loaded in [
        (files, tmp_path / "full.ckpt", True),
        ([files[1], files[0], *files[2:]], tmp_path / "full.ckpt", False),
        (files, tmp_path / "lora.ckpt", False),
        (files, tmp_path / "none.ckpt", False),
        (files, files[0], False),
    ]:
        net = Net()
        assert ms.load_distributed_checkpoint(net, ordered, None, str(strategy)) is True
        assert np.array_equal(net.w.asnumpy(), base["w"]) is loaded
        if strategy != tmp_path / "full.ckpt":
            with pytest.raises(WeightsError):
                open_sharded(tmp_path / "ckpts", Path(strategy))
