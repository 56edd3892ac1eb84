"""Strategy files: what MindSpore writes is read, what petrun writes MindSpore reads, and what contradicts itself is refused."""

import json
import shutil

import mindspore as ms
import numpy as np
import pytest
from mindspore.train import node_strategy_pb2 as pb

from petrun.errors import OutputError, WeightsError
from petrun.tensors import TensorLayout, array_entries, write_ckpt
from petrun.tensors.sharded.strategy import Strategy, read_strategy, require_complete, write_strategy

LAYOUTS = {
    "w": TensorLayout.of((2, 4), (0, -1), opt_size=-1),
    "v": TensorLayout.of((2, 4), (-1, 0)),
    "b": TensorLayout.of((2, 4), (-1,)),
    "s": TensorLayout.of((8,), ()),
}
NESTED = {
    "a": TensorLayout(devices=(2, 2, 2), axes=((1, 0), ())),
    "c": TensorLayout(devices=(2, 2, 2), axes=((0,), (1, 2))),
}
STAGES = (
    {"x.w": TensorLayout.of((2, 2), (0, -1)), "tied": TensorLayout.of((2, 2), (0, -1))},
    {"tied": TensorLayout.of((2, 2), (0, -1))},
)


@pytest.mark.parametrize("name", ["s.ckpt", "s.json"])
def test_round_trip_and_mindspores_reading(tmp_path, name):
    write_strategy(tmp_path / name, LAYOUTS)
    read = read_strategy(tmp_path / name)
    assert read.stages == (LAYOUTS,) and read.devices == 8 and set(read.names) == set(LAYOUTS)
    theirs = ms.build_searched_strategy(str(tmp_path / name))
    assert set(theirs) == set(LAYOUTS)
    w = theirs["w"]
    assert [list(w.dev_matrix[0].dim), list(w.tensor_map[0].dim)] == [[2, 4], [0, -1]]
    assert (w.opt_weight_shard_step, w.opt_weight_shard_size, w.field) == (4, -1, 0)


def test_an_axis_of_two(tmp_path):
    write_strategy(tmp_path / "n.ckpt", NESTED)
    assert read_strategy(tmp_path / "n.ckpt").stages == (NESTED,)
    with pytest.raises(OutputError, match="JSON cannot say"):
        write_strategy(tmp_path / "n.json", NESTED)
    assert not (tmp_path / "n.json").exists()


@pytest.mark.parametrize("ending", ["ckpt", "json"])
def test_stages(tmp_path, ending):
    """A folder of stage files (two ranks of a stage may both have written theirs), the file MindSpore merges of them, and petrun's."""
    folder = tmp_path / "stages"
    folder.mkdir()
    for stage, layouts in enumerate(STAGES):
        one_stage(folder / f"rank_{4 * stage}.{ending}", layouts, stage)
    ms.merge_pipeline_strategys(str(folder), str(tmp_path / f"merged.{ending}"))
    shutil.copy(folder / f"rank_4.{ending}", folder / f"rank_5.{ending}")
    write_strategy(tmp_path / f"ours.{ending}", Strategy(folder, STAGES))
    for name in ("stages", f"merged.{ending}", f"ours.{ending}"):
        read = read_strategy(tmp_path / name)
        assert read.stages == STAGES and (read.devices, read.stage_devices) == (8, 4), name
        assert read.stages_of("tied") == (0, 1) and read.stages_of("x.w") == (0,) and "y" not in read
    with pytest.raises(WeightsError, match="pipeline stage 1; the other stages' files"):
        read_strategy(folder / f"rank_4.{ending}")
    (folder / f"rank_0.{ending}").unlink()
    with pytest.raises(WeightsError, match="has pipeline stage 1 and not stage 0"):
        read_strategy(folder)


@pytest.mark.parametrize("ending", ["ckpt", "json"])
def test_a_name_may_hold_the_sign_that_merging_puts_behind_the_stage(tmp_path, ending):
    """MindSpore's own tools split `1-head-2.w` at both."""
    stages = ({"x.w": STAGES[0]["x.w"]}, {"head-2.w": STAGES[0]["x.w"], "1-3.w": STAGES[0]["x.w"]})
    write_strategy(tmp_path / f"s.{ending}", Strategy(tmp_path, stages))
    assert read_strategy(tmp_path / f"s.{ending}").stages == stages


def one_stage(path, layouts, stage):
    """As MindSpore writes it: the stage stands at an operator."""
    write_strategy(path, layouts)
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        content["parallel_strategy_item"] = {"MatMul_w": {"stage": stage, "parallel_strategy": [[1, 1]]}}
        path.write_text(json.dumps(content))
    else:
        message = pb.ParallelStrategyMap()
        message.ParseFromString(path.read_bytes())
        message.parallel_strategy_item[0].parallel_strategys.stage = stage
        path.write_bytes(message.SerializeToString())


def test_stages_that_disagree(tmp_path):
    one_stage(tmp_path / "rank_0.ckpt", STAGES[0], 0)
    one_stage(tmp_path / "rank_1.ckpt", {**STAGES[0], "tied": TensorLayout.of((2, 2), (-1, 0))}, 0)
    with pytest.raises(
        WeightsError, match=r"rank_0.ckpt and rank_1.ckpt are both of pipeline stage 0 and differ \(tied\)"
    ):
        read_strategy(tmp_path)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(WeightsError, match="both kinds"):
        read_strategy(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(WeightsError, match="holds no strategy file"):
        read_strategy(empty)


def test_without_layouts(tmp_path):
    """load_distributed_checkpoint loads nothing under such a file, says nothing, and returns True."""
    message = pb.ParallelStrategyMap(current_stage=1)
    message.parallel_strategy_item.add(node_name="MatMul").parallel_strategys.stage = 0
    (tmp_path / "s.ckpt").write_bytes(message.SerializeToString())
    (tmp_path / "s.json").write_text(json.dumps({"current_stage": 1, "parallel_layout_item": {}}))
    (tmp_path / "t.json").write_text(json.dumps({"current_stage": 1}))
    for name in ("s.ckpt", "s.json", "t.json"):
        with pytest.raises(WeightsError, match="holds no layouts") as caught:
            read_strategy(tmp_path / name)
        assert "only_trainable_params" in caught.value.hint


def item(**changes):
    whole = {
        "dev_matrix": [2, 4],
        "tensor_map": [0, -1],
        "field": 0,
        "opt_weight_shard_step": 0,
        "opt_weight_shard_size": 0,
    }
    return {key: value for key, value in {**whole, **changes}.items() if value != "gone"}


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ({"w": item(tensor_map=[2, -1])}, "w: its tensor map names axis 2"),
        (
            {"w": item(), "v": item(), "x": item(dev_matrix=[2, 2])},
            r"x: its device matrix \[2, 2\] is of 4 devices, others' of 8",
        ),
        ({"w": item(field=3)}, "w is split into shards of unequal size"),
        ({"w": item(param_split_shape=[3, 5])}, "w is split into shards of unequal size"),
        ({"w": item(dev_matrix="gone")}, "w has no dev_matrix"),
        ({"w": item(dev_matrix=[2, "4"])}, "w has a value that is no whole number"),
        ({"w": item(tensor_map=3)}, "w has a value that is no whole number"),
        ({"w": item(tensor_shape=7)}, "w has a value that is no whole number"),
        ({"w": item(opt_weight_shard_size=-1, opt_weight_shard_step=1)}, "w: opt_weight_shard_step is 1"),
        ({"w": [1]}, "w has no dev_matrix"),
        ({"0-w": item(), "v": item()}, "some of its parameters are named <stage>-<name>"),
        ({"1-w": item()}, "has pipeline stage 1 and not stage 0"),
        ([], "is not a strategy file"),
    ],
)
def test_bad_json(tmp_path, items, said):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"current_stage": 1, "parallel_layout_item": items}))
    with pytest.raises(WeightsError, match=said):
        read_strategy(path)


def test_other_files(tmp_path):
    write_ckpt(tmp_path / "weights.ckpt", array_entries({"w": np.ones((2, 2), np.float32)}))
    whole = tmp_path / "s.ckpt"
    write_strategy(whole, LAYOUTS)
    (tmp_path / "cut.ckpt").write_bytes(whole.read_bytes()[:-9])
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "text.json").write_text("{")
    (tmp_path / "twice.json").write_text('{"current_stage": 1, "parallel_layout_item": {"w": 1, "w": 2}}')
    (tmp_path / "other.json").write_text('{"a": 1}')
    twice = pb.ParallelStrategyMap()
    twice.ParseFromString(whole.read_bytes())
    twice.parallel_layout_item.append(twice.parallel_layout_item[0])
    (tmp_path / "twice.ckpt").write_bytes(twice.SerializeToString())
    for name, said in [
        ("weights.ckpt", "is not a strategy file"),
        ("cut.ckpt", "is not a whole strategy file"),
        ("empty.ckpt", "is empty"),
        ("text.json", "is not valid JSON"),
        ("twice.json", "lists w twice"),
        ("twice.ckpt", "lists w twice"),
        ("other.json", "is not a strategy file"),
        ("nowhere.ckpt", "no such file"),
    ]:
        with pytest.raises(WeightsError, match=said):
            read_strategy(tmp_path / name)


def test_require_complete(tmp_path):
    strategy = Strategy(tmp_path / "s.ckpt", (LAYOUTS,))
    require_complete(strategy, ["w", "b"])
    with pytest.raises(WeightsError, match=r"says nothing of 2 parameters: base\.w, base\.v") as caught:
        require_complete(strategy, ["w", "base.w", "base.v"])
    assert "'only_trainable_params': False" in caught.value.hint
