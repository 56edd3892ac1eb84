"""A graph goes with the cell that it was compiled from, and the parameters with both."""

import gc
import weakref

import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from petrun.graph.unpacked import call_with
from tests.program import call
from tests.tiny import ORDERS, write_base, write_rows

PAIRS = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": "0"} for row in ORDERS]


class Half(nn.Cell):
    def construct(self, x, y):
        return ops.add(x, y) / 2.0


class Mean(nn.Cell):
    """Half of what its own `*inputs` are."""

    def __init__(self):
        super().__init__()
        self.half = Half()

    def construct(self, *inputs):
        return call_with(self.half, inputs)


def cells():
    gc.collect()
    return {type(each).__name__ for each in gc.get_objects() if issubclass(type(each), nn.Cell)}


def test_a_call_with_inputs_is_the_call_and_frees_its_graph(mode):
    mean = Mean()
    found = mean(Tensor(np.float32([1, 2])), Tensor(np.float32([3, 6])))
    assert found.asnumpy().tolist() == [2, 4]
    left = weakref.ref(mean)
    del mean
    gc.collect()
    assert left() is None


@pytest.mark.parametrize(
    ("rows", "flags"),
    [
        (ORDERS, "--algo lora --steps 1 --eval-data rows.jsonl"),
        (ORDERS, "--algo adalora+r_drop --rank 2 --dropout 0.1 --steps 8 --accumulate 2"),
        pytest.param(PAIRS, "--algo lora --task preference --loss dpo --steps 1", marks=pytest.mark.all_only),
    ],
)
def test_a_process_that_trained_holds_no_net(tmp_path, monkeypatch, graph_mode, rows, flags):
    """Or a notebook that trains twice would hold both models."""
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "llama", "llama", num_hidden_layers=1)
    write_rows(tmp_path / "rows.jsonl", rows)
    before = cells()
    assert call(["train", "--base", "llama", "--data", "rows.jsonl", *flags.split(), "--out", "run"]) == 0
    assert cells() - before == set()
