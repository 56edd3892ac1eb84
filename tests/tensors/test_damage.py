"""Bytes changed at random: whatever comes, a damaged file is read or refused by name, and nothing else happens."""

import random

import numpy as np
import pytest

from petrun.errors import WeightsError
from petrun.tensors import array_entries, open_tensors, write_ckpt, write_safetensors

ARRAYS = {"layer.weight": np.ones((3, 4), np.float32), "b": np.arange(5), "s": np.float32(1).reshape(())}
WRITERS = {"safetensors": write_safetensors, "ckpt": write_ckpt}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("seed", range(4))
def test_random_damage(tmp_path, kind, seed):
    path = tmp_path / f"a.{kind}"
    WRITERS[kind](path, array_entries(ARRAYS), {"note": "x" * 20})
    whole = path.read_bytes()
    rng = random.Random(seed)
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 8))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            reader = open_tensors(path)
            for name in reader.names:
                assert reader.read(name).nbytes <= 2 * len(whole)
        except WeightsError as error:
            assert str(path) in error.message
            refused += 1
    assert refused > 30
