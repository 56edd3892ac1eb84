"""Strategy files of MindSpore's compiler, and how it shards known values, against petrun's reading of them.

On MindSpore's Ascend front end with a stub of CANN, see test_rehearsal.py.
"""

import subprocess
import sys

import numpy as np
import pytest

from petrun.tensors import open_tensors
from petrun.tensors.sharded.strategy import read_strategy
from tests.conftest import ROOT
from tests.parallel.sharded_values import whole
from tests.shards import shard_of

WHOLES = {**{f"net.products.{seed}.weight": whole(seed) for seed in range(5)}, "net.scale": whole(9)[0]}


def compile_rank(ascend, folder, rank, shards):
    environment = ascend(rank, 8, 0)
    environment["PYTHONPATH"] = f"{ROOT}:{environment['PYTHONPATH']}"
    command = [sys.executable, "-m", "tests.parallel.sharded_values", str(folder), str(shards)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"


def check_rank(folder, rank):
    strategy = read_strategy(folder / f"strategy_{rank}.ckpt")
    assert strategy.devices == 8 and len(strategy.stages) == 1
    held = open_tensors(folder / f"cut_{rank}.safetensors")
    assert set(held.names) == set(WHOLES)
    for name, values in WHOLES.items():
        layout, shard = strategy.stages[0][name], held.read(name)
        assert layout.shard_shape(values.shape) == shard.shape
        np.testing.assert_array_equal(values[layout.slices(rank, shard.shape)], shard)
        np.testing.assert_array_equal(shard_of(values, rank, layout), shard)


def test_a_rank_cuts_as_petrun_does(ascend, tmp_path):
    compile_rank(ascend, tmp_path, 1, -1)
    check_rank(tmp_path, 1)


@pytest.mark.all_only
@pytest.mark.parametrize("shards", [0, -1, 2])
def test_every_rank_cuts_as_petrun_does(ascend, tmp_path, shards):
    for rank in range(8):
        compile_rank(ascend, tmp_path, rank, shards)
        check_rank(tmp_path, rank)
