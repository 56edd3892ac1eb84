"""What is said of a file's contents, against files that are written here."""

import numpy as np
import pytest

from petrun.checkpoint.contents import contents_of
from petrun.errors import DeltaError
from petrun.tensors import TensorLayout, array_entries, write_ckpt, write_safetensors
from petrun.tensors.sharded.strategy import Strategy, write_strategy

ARRAYS = {"a.weight": np.zeros((4, 8), np.float32), "a.bias": np.zeros(4, np.float16), "count": np.array(3, np.int64)}


def test_a_file_of_tensors(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, array_entries(ARRAYS))
    found = contents_of(path)
    assert (found.facts["kind"], found.facts["values"], found.facts["bytes"]) == ("tensors", 37, 4 * 32 + 2 * 4 + 8)
    assert found.facts["types"] == "float16, float32, int64"
    assert found.tensors == {"a.weight": "4x8 float32", "a.bias": "4 float16", "count": "scalar int64"}


def test_a_strategy_of_two_stages(tmp_path):
    stages = (
        {"a.weight": TensorLayout.of((2, 4), (0, -1)), "shared": TensorLayout.replicated(8, 1)},
        {"b.weight": TensorLayout.of((2, 4), (-1, -1), opt_size=-1), "shared": TensorLayout.replicated(8, 1)},
    )
    path = tmp_path / "s.ckpt"
    write_strategy(path, Strategy(path, stages))
    found = contents_of(path)
    assert {key: found.facts[key] for key in ("kind", "ranks", "stages", "parameters")} == {
        "kind": "strategy",
        "ranks": 16,
        "stages": 2,
        "parameters": 3,
    }
    assert found.tensors == {
        "a.weight": "in 4 x 1, on stage 0",
        "shared": "whole, on stage 0, 1",
        "b.weight": "in 8 x 1, 8 of it by the optimizer parallel, on stage 1",
    }


def test_files_of_ranks_are_refused_with_the_way_out(tmp_path):
    for rank in range(2):
        (tmp_path / f"rank_{rank}").mkdir()
        write_ckpt(tmp_path / f"rank_{rank}" / "m.ckpt", array_entries(ARRAYS))
    with pytest.raises(DeltaError, match="each with a shard of the tensors") as caught:
        contents_of(tmp_path)
    assert "strategy file" in str(caught.value)


def test_a_folder_of_other_things(tmp_path):
    (tmp_path / "notes.txt").write_text("no")
    with pytest.raises(DeltaError):
        contents_of(tmp_path)
