"""Cutting whole tensors: against plain numpy, against MindSpore's own tools, and nothing half-written."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from petrun.errors import OutputError, WeightsError
from petrun.tensors import TensorLayout, array_entries, open_tensors, tensor_digest, write_ckpt
from petrun.tensors.sharded import writer
from petrun.tensors.sharded.checkpoint import open_sharded
from petrun.tensors.sharded.note import NOTE
from petrun.tensors.sharded.strategy import Strategy, read_strategy, write_strategy
from petrun.tensors.sharded.writer import full_tensors, write_sharded
from tests.shards import rank_count, shard_of, shard_of_rank
from tests.tensors.sharded.test_checkpoint import ARRAYS, LAYOUTS


@pytest.fixture
def whole(tmp_path):
    write_ckpt(tmp_path / "whole.ckpt", array_entries(ARRAYS))
    return open_tensors(tmp_path / "whole.ckpt")


def strategy_of(tmp_path, layout):
    stages = LAYOUTS[layout]
    write_strategy(tmp_path / f"{layout}.ckpt", Strategy(tmp_path, tuple(stages)))
    return read_strategy(tmp_path / f"{layout}.ckpt")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
def test_shards_are_numpys(tmp_path, whole, layout, ending):
    strategy = strategy_of(tmp_path, layout)
    write_sharded(tmp_path / "out", full_tensors(whole), strategy, file=f"m.{ending}", metadata={"a": "b"})
    for rank in range(rank_count(LAYOUTS[layout])):
        held = open_tensors(tmp_path / "out" / f"rank_{rank}" / f"m.{ending}")
        want = {n: shard_of_rank(a, rank, n, LAYOUTS[layout]) for n, a in ARRAYS.items()}
        assert set(held.names) == {n for n, shard in want.items() if shard is not None}
        for name in held.names:
            assert held.info(name).shape == want[name].shape
            np.testing.assert_array_equal(held.read(name), want[name])
    again = open_sharded(tmp_path / "out", strategy)
    assert again.metadata == {"a": "b"}
    assert {n: tensor_digest(again, n) for n in again.names} == {n: tensor_digest(whole, n) for n in whole.names}


# Over a scalar parameter load_distributed_checkpoint ends with "zero-dimensional arrays cannot be concatenated".
MATRICES = {name: array for name, array in ARRAYS.items() if array.ndim}


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        for name, array in MATRICES.items():
            setattr(self, name.replace(".", "_"), Parameter(Tensor(np.zeros_like(array)), name=name))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mindspores_tools_agree(tmp_path, layout):
    """transform_checkpoints joins and shards as petrun does, load_distributed_checkpoint loads what petrun wrote."""
    (tmp_path / "whole" / "rank_0").mkdir(parents=True)
    write_ckpt(tmp_path / "whole" / "rank_0" / "m.ckpt", array_entries(ARRAYS))
    strategy = strategy_of(tmp_path, layout)
    file = str(tmp_path / f"{layout}.ckpt")
    write_sharded(tmp_path / "ours", full_tensors(open_tensors(tmp_path / "whole" / "rank_0" / "m.ckpt")), strategy)
    ms.transform_checkpoints(str(tmp_path / "ours"), str(tmp_path / "joined"), "j_", file, None)
    joined = ms.load_checkpoint(str(tmp_path / "joined" / "rank_0" / "j_0.ckpt"))
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(joined[name].asnumpy(), array)
    ms.transform_checkpoints(str(tmp_path / "whole"), str(tmp_path / "theirs"), "c_", None, file)
    for rank in range(strategy.devices):
        theirs = ms.load_checkpoint(str(tmp_path / "theirs" / f"rank_{rank}" / f"c_{rank}.ckpt"))
        ours = open_tensors(tmp_path / "ours" / f"rank_{rank}" / "model.ckpt")
        for name in ours.names:
            np.testing.assert_array_equal(theirs[name].asnumpy(), ours.read(name))
    if len(strategy.stages) == 1:
        net = Net()
        files = [str(tmp_path / "ours" / f"rank_{rank}" / "model.ckpt") for rank in range(strategy.devices)]
        assert ms.load_distributed_checkpoint(net, files, train_strategy_filename=file)
        for parameter in net.get_parameters():
            np.testing.assert_array_equal(parameter.asnumpy(), ARRAYS[parameter.name])


def test_where_mindspores_tool_is_wrong(tmp_path):
    """Dimension 0 split by the inner axis and 1 by the outer, and the optimizer parallel: transform_checkpoints takes the axes in the
    order of the dimensions. petrun shards as the compiler does: tests/parallel/test_sharded_values.py, product 3.
    """
    array, layout = np.arange(64, dtype=np.float32).reshape(8, 8), TensorLayout.of((2, 2, 2), (0, 1), opt_size=-1)
    (tmp_path / "whole" / "rank_0").mkdir(parents=True)
    write_ckpt(tmp_path / "whole" / "rank_0" / "m.ckpt", array_entries({"w": array}))
    write_strategy(tmp_path / "s.ckpt", {"w": layout})
    ms.transform_checkpoints(str(tmp_path / "whole"), str(tmp_path / "theirs"), "c_", None, str(tmp_path / "s.ckpt"))
    theirs = [ms.load_checkpoint(str(tmp_path / f"theirs/rank_{r}/c_{r}.ckpt"))["w"].asnumpy() for r in range(8)]
    wrong = [r for r in range(8) if not np.array_equal(theirs[r], shard_of(array, r, layout))]
    assert wrong == [1, 2, 5, 6]
    write_sharded(
        tmp_path / "ours",
        full_tensors(open_tensors(tmp_path / "whole" / "rank_0" / "m.ckpt")),
        read_strategy(tmp_path / "s.ckpt"),
    )
    for rank in range(8):
        held = open_tensors(tmp_path / "ours" / f"rank_{rank}" / "model.ckpt").read("w")
        np.testing.assert_array_equal(held, shard_of(array, rank, layout))


def test_the_note_proves_the_order(tmp_path):
    """Tensor parallel alone, files without a rank in their names: what each must hold is written down."""
    arrays = {"w": np.arange(32, dtype=np.float32).reshape(8, 4)}
    write_ckpt(tmp_path / "whole.ckpt", array_entries(arrays))
    write_strategy(tmp_path / "s.ckpt", {"w": TensorLayout.of((4,), (0, -1))})
    strategy, out = read_strategy(tmp_path / "s.ckpt"), tmp_path / "out"
    write_sharded(out, full_tensors(open_tensors(tmp_path / "whole.ckpt")), strategy)
    np.testing.assert_array_equal(open_sharded(out, strategy).read("w"), arrays["w"])
    (out / "rank_1").rename(out / "aside")
    (out / "rank_2").rename(out / "rank_1")
    (out / "aside").rename(out / "rank_2")
    with pytest.raises(WeightsError, match=r"rank_1/model\.ckpt holds what rank 2 must hold"):
        open_sharded(out, strategy)
    write_ckpt(out / "rank_1" / "model.ckpt", array_entries({"w": np.ones((2, 4), np.float32)}))
    with pytest.raises(WeightsError, match=r"rank_1/model\.ckpt does not hold what it was written with"):
        open_sharded(out, strategy)
    (out / "rank_1" / "model.ckpt").rename(out / "rank_1" / "m.ckpt")
    with pytest.raises(WeightsError, match=r"rank_1/m\.ckpt is there, petrun_shards\.json names rank_1/model\.ckpt"):
        open_sharded(out, strategy)
    for text in ("{", "[]", '{"format": 1, "files": ["a"], "digests": [1], "metadata": {}}', '{"format": 2}'):
        (out / NOTE).write_text(text)
        with pytest.raises(WeightsError, match=r"does not read|another petrun"):
            open_sharded(out, strategy)


def test_refused_before_anything_is_written(tmp_path, whole):
    out = tmp_path / "out"
    lacking = {n: lay for n, lay in LAYOUTS["dp2_tp4"][0].items() if n != "embed.table"}
    uneven = {**LAYOUTS["dp2_tp4"][0], "layers.0.down.weight": TensorLayout.of((2, 4), (0, -1))}
    idle = [LAYOUTS["dp2_tp4"][0], {"other": TensorLayout.of((8,), (-1,))}]
    for stages, said in [
        ([lacking], "says nothing of embed.table"),
        ([uneven], r"layers\.0\.down\.weight \[6, 32\]: its dimension 0, 6, does not divide by 4"),
        (idle, "rank 8 would get no tensor"),
    ]:
        with pytest.raises(WeightsError, match=said):
            write_sharded(out, full_tensors(whole), Strategy(tmp_path / "s.ckpt", tuple(stages)))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["whole.ckpt"]


def test_what_is_written_is_compared(tmp_path, whole, monkeypatch):
    """A shard that goes wrong on its way leaves nothing behind."""
    shard = writer._shard_bytes

    def wrong(each, layout, device):
        return (
            shard(each, layout, device)[::-1]
            if (each.name, device) == ("layers.0.up.weight", 3)
            else shard(each, layout, device)
        )

    monkeypatch.setattr(writer, "_shard_bytes", wrong)
    stage = {
        n: TensorLayout.of((4,), ([0, -1] if n == "layers.0.up.weight" else [-1, -1])[: a.ndim])
        for n, a in ARRAYS.items()
    }
    strategy = Strategy(tmp_path / "s.ckpt", (stage,))
    with pytest.raises(OutputError, match="differs from what was sharded"):
        write_sharded(tmp_path / "out", full_tensors(whole), strategy)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["whole.ckpt"]
