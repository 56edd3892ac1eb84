"""A checkpoint that is to be resharded, as it is opened and named; what is written of it is in tests/commands/test_reshard.py."""

import numpy as np
import pytest

from petrun.checkpoint.resharding.source import open_source, require_matching_config
from petrun.errors import WeightsError
from petrun.tensors import array_entries, write_ckpt, write_safetensors
from tests.shards import dp2_tp4, write_ranks

ARRAYS = {"a.weight": np.ones((8, 8), np.float32), "a.bias": np.ones(8, np.float32)}


@pytest.mark.parametrize(("write", "suffix"), [(write_ckpt, ".ckpt"), (write_safetensors, ".safetensors")])
def test_a_whole_file(tmp_path, write, suffix):
    write(tmp_path / f"m{suffix}", array_entries(ARRAYS))
    source = open_source(tmp_path / f"m{suffix}", None)
    assert (source.suffix, source.stem, source.is_delta, source.metadata()) == (suffix, "model", False, {})
    assert source.root == tmp_path and require_matching_config(source) == f"{tmp_path} has none"


def test_files_of_ranks_need_their_strategy(tmp_path):
    write_ranks(tmp_path, ARRAYS, dp2_tp4(ARRAYS))
    with pytest.raises(WeightsError, match="each with a shard of the tensors") as caught:
        open_source(tmp_path, None)
    assert "--from-strategy FILE" in str(caught.value)
